import { html, nothing, type TemplateResult } from 'lit';
import { customElement, state } from 'lit/decorators.js';
import { repeat } from 'lit/directives/repeat.js';
import { encodeQuery, type Incident, severities } from '../api.ts';
import { parseASN, parsePrefix } from '../address.ts';
import { count, instant, plural, shortTime, time } from '../format.ts';
import { type Filter, filterFrom, noFilter } from '../filter.ts';
import { IncidentList, live, type Row } from '../live.ts';
import { kindMeaning, kindName, kindNames } from '../words.ts';
import { Following, plainASNs, seenBy, severityBadge, severityName, statusBadge, View } from '../view.ts';
import { navigate } from '../router.ts';

// Made once: going back from an incident shows the list as it was left, still live.
let shown: IncidentsView | undefined;
const list = new IncidentList(50, () => shown?.requestUpdate(), (incident) => shown?.announce(incident));

/** The front page: what is going on now. */
@customElement('rv-incidents')
export class IncidentsView extends View {
  @state() private search = '';
  @state() private searchError = '';
  /** What a screen reader is told about a new incident. */
  @state() private announcement = '';


  constructor() {
    super();
    new Following(this);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    shown = this;
    this.locationChanged();
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    if (shown === this) shown = undefined;
  }

  /** The URL has the filter; whatever changes it comes here. */
  locationChanged(): void {
    const filter = filterFrom(new URLSearchParams(location.search));
    this.search = [filter.asn && `AS${filter.asn}`, filter.prefix].filter(Boolean).join(' ');
    this.searchError = '';
    if (list.loaded && JSON.stringify(filter) === JSON.stringify(list.filter)) return;
    void list.load(filter);
  }

  announce(incident: Incident): void {
    this.announcement = `New incident, ${severityName(incident.severity)}: ${incident.title}`;
  }

  #set(change: Partial<Filter>): void {
    const filter = { ...filterFrom(new URLSearchParams(location.search)), ...change };
    navigate(`/${encodeQuery({ ...filter })}`, { keepFocus: true });
  }

  #submit(event: Event): void {
    event.preventDefault();
    const words = this.search.split(/[\s,]+/).filter(Boolean);
    let asn = '';
    let prefix = '';
    for (const word of words) {
      const number = parseASN(word);
      if (number !== undefined && !asn) asn = String(number);
      else if (parsePrefix(word) && !prefix) prefix = word;
      else {
        this.searchError = `“${word}” is neither an AS number nor a prefix. Write AS64500 or 192.0.2.0/24.`;
        return;
      }
    }
    this.searchError = '';
    this.#set({ asn, prefix });
  }

  protected override render() {
    const filter = filterFrom(new URLSearchParams(location.search));
    const filtered = Object.values(filter).some(Boolean);
    return html`
      <h1 class="visually-hidden" tabindex="-1">Incidents</h1>
      ${this.#summary(filter)}
      <form class="filters" role="search" aria-label="Filter incidents" @submit=${(e: Event) => this.#submit(e)}>
        <label>Status
          <select name="status" @change=${(e: Event) => this.#set({ status: (e.target as HTMLSelectElement).value as Filter['status'] })}>
            ${[['', 'Open and ended'], ['open', 'Open'], ['ended', 'Ended']].map(([value, name]) => option(value!, name!, filter.status))}
          </select>
        </label>
        <label>Severity
          <select name="min_severity" @change=${(e: Event) => this.#set({ min_severity: (e.target as HTMLSelectElement).value as Filter['min_severity'] })}>
            ${option('', 'Any', filter.min_severity)}
            ${severities.slice(1).map((s) => option(s, s === 'critical' ? 'Critical' : `${severityName(s)} and above`, filter.min_severity))}
          </select>
        </label>
        <label>Kind
          <select name="kind" @change=${(e: Event) => this.#set({ kind: (e.target as HTMLSelectElement).value })}>
            ${option('', 'Any', filter.kind)} ${kindNames.map((kind) => option(kind, kindName(kind), filter.kind))}
          </select>
        </label>
        <label class="grow">AS number or prefix
          <input name="about" type="search" autocomplete="off" spellcheck="false" placeholder="AS64500 or 192.0.2.0/24" .value=${this.search}
            aria-invalid=${this.searchError !== ''} aria-describedby="search-error"
            @input=${(e: Event) => {
              this.search = (e.target as HTMLInputElement).value;
              if (this.search === '') this.#submit(e);
            }} />
        </label>
        <button type="submit">Filter</button>
        <button type="button" class="quiet" ?disabled=${!filtered} @click=${() => this.#set({ ...noFilter })}>Clear</button>
        <p id="search-error" class="field-error" role="alert">${this.searchError}</p>
      </form>
      <p class="visually-hidden" role="status">${this.announcement}</p>
      ${this.#body(filtered)}`;
  }

  #summary(filter: Filter): TemplateResult {
    const counts = live.status?.counts;
    const chip = (name: string, n: number | undefined, change: Partial<Filter>, tone: string, title: string) => {
      const target = { ...noFilter, ...change };
      const selected = JSON.stringify({ ...filter }) === JSON.stringify(target);
      return html`<a class="chip ${tone} ${n ? '' : 'none'}" href="/${encodeQuery(target)}" title=${title} aria-current=${selected ? 'true' : nothing}
        ><b>${n === undefined ? '–' : count(n)}</b> ${name}</a
      >`;
    };
    return html`<nav class="summary" aria-label="Open incidents by severity">
      ${chip('open', counts?.open_incidents, { status: 'open' }, 'all', 'Show all open incidents')}
      ${[...severities].reverse().map((s) => chip(s, counts && (counts.by_severity?.[s] ?? 0), { status: 'open', min_severity: s === 'info' ? '' : s }, s,
        `Show open incidents, ${s === 'critical' ? 'critical' : `${s} and above`}`))}
    </nav>`;
  }

  #body(filtered: boolean): TemplateResult {
    if (!list.loaded && list.error) {
      return html`<div class="empty"><h2>The incidents could not be loaded</h2>
        <p>${list.error}</p>
        <button type="button" @click=${() => void list.load(list.filter)}>Try again</button></div>`;
    }
    if (!list.loaded) return html`<div class="rows skeleton" aria-busy="true" aria-label="Loading incidents">${Array.from({ length: 6 }, () => html`<div class="row"></div>`)}</div>`;
    return html`
      ${list.error ? html`<p class="notice warn" role="alert">${list.error} What is shown may be old.</p>` : nothing}
      ${list.rows.length === 0 ? (filtered ? this.#nothingFits() : this.#allQuiet()) : this.#rows()}`;
  }

  #rows(): TemplateResult {
    return html`
      <div class="row head" aria-hidden="true"><span>Severity</span><span>What happened</span><span>Prefixes</span><span>Seen by</span><span>Duration</span><span>Status</span></div>
      <ul class="rows" aria-busy=${list.loading}>
        ${repeat(list.rows, (row) => row.incident.id, incidentRow)}
      </ul>
      <div class="more">
        ${list.next || list.truncated
          ? html`<button type="button" ?disabled=${list.loading} @click=${() => void list.more()}>${list.truncated ? 'Load the list again' : 'Show older incidents'}</button>`
          : html`<p class="end">That is all: ${plural(list.rows.length, 'incident')}.</p>`}
      </div>`;
  }

  #nothingFits(): TemplateResult {
    return html`<div class="empty"><h2>No incident fits this filter</h2>
      <p>New ones that fit will appear here by themselves.</p>
      <button type="button" @click=${() => this.#set({ ...noFilter })}>Show all incidents</button></div>`;
  }

  #allQuiet(): TemplateResult {
    const { feeds, status } = live;
    const fresh = feeds?.filter((f) => f.state === 'connected') ?? [];
    const peers = fresh.reduce((sum, f) => sum + f.peers, 0);
    const blind = feeds !== undefined && fresh.length === 0;
    return html`<div class="empty">
      <h2>${blind ? 'No incidents, but nothing is being watched' : 'No incidents'}</h2>
      ${blind
        ? html`<p>No feed delivers fresh routes at the moment, so an incident would not be seen. <a href="/feeds">See why</a>.</p>`
        : html`<p>Watching ${fresh.map((f, i) => html`${i ? ', ' : ''}<strong>${f.name}</strong>`)}: ${plural(peers, 'peer')},
            every announcement compared with RPKI, IRR, AS relationships and the history of its prefix.</p>`}
      ${status?.mode === 'demo' && !blind ? html`<p>This is the demo: the first incidents appear within two minutes of its start.</p>` : nothing}
      <p>Incidents appear here by themselves.</p>
    </div>`;
  }
}

const option = (value: string, name: string, selected: string) => html`<option value=${value} ?selected=${value === selected} .selected=${value === selected}>${name}</option>`;

export function who(incident: Incident): TemplateResult {
  const part = (label: string, list: number[] | null) => (list?.length ? html`<span class="party"><span class="label">${label}</span> ${plainASNs(list)}</span>` : nothing);
  return html`${part('by', incident.offenders)}${part('via', incident.accomplices)}${part('affects', incident.victims)}`;
}

function incidentRow(row: Row): TemplateResult {
  const { incident } = row;
  const started = instant(incident.started_at);
  const first = incident.prefixes?.[0]?.prefix;
  return html`<li class="row ${row.fresh ? 'fresh' : ''} ${incident.status}" data-id=${incident.id}>
    <span class="c-severity">${severityBadge(incident.severity)}</span>
    <span class="c-what">
      <a class="title" href="/incidents/${encodeURIComponent(incident.id)}"><span class="hostile">${incident.title}</span></a>
      <span class="sub"><span class="kind" title=${kindMeaning(incident.kind)}>${kindName(incident.kind)}</span>${who(incident)}</span>
    </span>
    <span class="c-prefixes"><span class="visually-hidden">Prefixes: </span><span class="prefix">${first ?? '–'}</span>
      ${incident.prefix_count > 1 ? html`<span class="sub">and ${count(incident.prefix_count - 1)} more</span>` : nothing}</span>
    <span class="c-seen"><span class="visually-hidden">Seen by </span>${seenBy(incident)}</span>
    <span class="c-time"><rv-age mode="span" .from=${started} .to=${instant(incident.ended_at)}></rv-age>
      <span class="sub">${started === undefined ? '' : html`since <time datetime=${incident.started_at} title="${time(started)} UTC">${shortTime(started, Date.now())}</time>`}</span></span>
    <span class="c-status">${statusBadge(incident)}${row.fresh ? html`<span class="new">New</span>` : nothing}</span>
  </li>`;
}
