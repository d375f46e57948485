import { html, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, state } from 'lit/decorators.js';
import { get, type Incident, isAbort, type List, message, type OriginState, prefixPath, type PrefixState, type Route } from '../api.ts';
import { count, instant, plural } from '../format.ts';
import { live } from '../live.ts';
import { kindName, rpkiName } from '../words.ts';
import { asnLink, moment, prefixLink, severityBadge, statusBadge, View } from '../view.ts';
import { stateTag } from './incident.ts';
import { who } from './incidents.ts';
import { parsePrefix, related } from '../address.ts';
import '../activity.ts';

/** Who announces a prefix now, and what happened to it. */
@customElement('rv-prefix')
export class PrefixView extends View {
  @property() asked = '';
  @state() private answer: PrefixState | undefined;
  @state() private routes: Route[] | undefined;
  @state() private next: string | undefined;
  @state() private error = '';
  @state() private routesError = '';
  @state() private more = false;

  #abort = new AbortController();
  #stops: (() => void)[] = [];
  #timer: ReturnType<typeof setInterval> | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    this.#stops = [
      live.on('resumed', () => void this.#load()),
      live.on('incident', ({ incident }) => {
        const own = parsePrefix(this.answer?.prefix ?? this.asked);
        const touched = incident.prefixes?.some(({ prefix }) => {
          const other = parsePrefix(prefix);
          return own && other && related(own, other);
        });
        if (touched) void this.#load();
      }),
    ];
    this.#timer = setInterval(() => !document.hidden && void this.#load(), 15_000);
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    for (const stop of this.#stops) stop();
    clearInterval(this.#timer);
    this.#abort.abort();
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has('asked')) {
      this.answer = this.routes = this.next = undefined;
      this.error = this.routesError = '';
      this.more = false;
      void this.#load();
    }
  }

  async #load(): Promise<void> {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    try {
      this.answer = await get<PrefixState>(`prefixes/${prefixPath(this.asked)}`, {}, signal);
      this.error = '';
    } catch (error) {
      if (isAbort(error)) return;
      this.error = message(error);
    }
    if (this.more) return; // the rows fetched by hand stay as they are
    try {
      const page = await get<List<Route>>('updates', { prefix: this.answer?.prefix ?? this.asked, match: 'covered', limit: 50 }, signal);
      this.routes = page.items ?? [];
      this.next = page.next;
      this.routesError = '';
    } catch (error) {
      if (!isAbort(error)) this.routesError = message(error);
    }
  }

  async #older(): Promise<void> {
    try {
      const page = await get<List<Route>>('updates', { prefix: this.answer?.prefix ?? this.asked, match: 'covered', limit: 200, cursor: this.next });
      this.routes = [...(this.routes ?? []), ...(page.items ?? [])];
      this.next = page.next;
      this.more = true;
    } catch (error) {
      this.routesError = message(error);
    }
  }

  protected override render() {
    const { answer } = this;
    return html`<h1 tabindex="-1"><span class="prefix hostile">${answer?.prefix ?? this.asked}</span></h1>
      ${this.error ? html`<p class="notice warn" role="alert"><span class="hostile">${this.error}</span></p>` : nothing}
      ${!answer ? (this.error ? nothing : html`<p class="loading" aria-busy="true">Loading…</p>`) : this.#answer(answer)}
      ${answer
        ? html`<section aria-labelledby="h-activity"><h2 id="h-activity">Activity</h2><rv-activity .of=${answer.prefix}></rv-activity></section>
            ${this.#routes()}`
        : nothing}`;
  }

  #answer(answer: PrefixState): TemplateResult {
    const origins = answer.origins ?? [];
    const covering = answer.covering ?? [];
    const note = this.asked !== answer.prefix ? html`<p class="explain">${this.asked} lies in this prefix.</p>` : nothing;
    return html`${note}
      <section aria-labelledby="h-origins"><h2 id="h-origins">Announced now by</h2>
        ${origins.length === 0
          ? html`<p class="empty-note">Nobody announces this prefix${covering.length ? ' itself; what covers it carries its traffic' : ''}.</p>`
          : html`<div class="table-scroll"><table class="stack">
              <thead><tr><th scope="col">Origin</th><th scope="col">Since</th><th scope="col">Seen by</th><th scope="col">RPKI</th><th scope="col">A path</th></tr></thead>
              <tbody>${origins.map((o) => origin(o, answer.full_feed_peers))}</tbody></table></div>`}
        ${covering.length ? html`<p>Covered by ${covering.map((p, i) => html`${i ? ', ' : ''}${prefixLink(p)}`)}</p>` : nothing}
      </section>
      <section aria-labelledby="h-its"><h2 id="h-its">Incidents</h2>
        ${answer.incidents?.length
          ? html`<ul class="mini">${answer.incidents.map(mini)}</ul>`
          : html`<p class="empty-note">None is recorded for this prefix, a part of it, or what covers it.</p>`}
      </section>`;
  }

  #routes(): TemplateResult {
    const list = this.routes;
    return html`<section aria-labelledby="h-updates"><h2 id="h-updates">Recent updates</h2>
      ${this.routesError ? html`<p class="notice warn">${this.routesError}</p>` : nothing}
      ${list === undefined
        ? html`<p class="loading">Loading…</p>`
        : list.length === 0
          ? html`<p class="empty-note">No update of this prefix or a part of it is kept.</p>`
          : html`<div class="table-scroll"><table class="stack updates">
              <thead><tr><th scope="col">Time</th><th scope="col">What</th><th scope="col">Prefix</th><th scope="col">Peer</th><th scope="col">AS path</th></tr></thead>
              <tbody>${list.map((r) => html`<tr>
                <th scope="row">${moment(r.time)}</th>
                <td data-label="What">${r.type === 'withdraw' ? 'Withdrawn' : r.type === 'rib' ? 'In the table' : 'Announced'}</td>
                <td data-label="Prefix" class="prefix">${r.prefix ?? ''}</td>
                <td data-label="Peer">${asnLink(r.peer_asn)} <span class="sub hostile">${r.collector}</span></td>
                <td data-label="AS path" class="prefix hostile">${r.as_path || '–'}</td></tr>`)}</tbody></table></div>
            ${this.next ? html`<div class="more"><button type="button" @click=${() => void this.#older()}>Show older updates</button></div>` : nothing}`}
    </section>`;
  }
}

function origin(o: OriginState, all: number): TemplateResult {
  return html`<tr>
    <th scope="row">${asnLink(o.asn)}</th>
    <td data-label="Since">${moment(o.since)}<span class="sub"><rv-age mode="span" .from=${instant(o.since)}></rv-age></span></td>
    <td data-label="Seen by">${count(o.peers)}${all ? ` of ${count(all)}` : ''} peers <span class="sub">${plural(o.peer_asns, 'network')}</span></td>
    <td data-label="RPKI">${stateTag(o.rpki, rpkiName(o.rpki))}</td>
    <td data-label="A path" class="prefix">${o.paths?.[0]?.join(' ') ?? '–'}</td></tr>`;
}

function mini(incident: Incident): TemplateResult {
  return html`<li>${severityBadge(incident.severity)}
    <span><a href="/incidents/${encodeURIComponent(incident.id)}"><span class="hostile">${incident.title}</span></a>
    <span class="sub"><span class="kind">${kindName(incident.kind)}</span>${who(incident)} ${moment(incident.started_at)}</span></span>
    ${statusBadge(incident)}</li>`;
}
