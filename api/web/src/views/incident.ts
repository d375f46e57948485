import { html, nothing, svg, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, state } from 'lit/decorators.js';
import { repeat } from 'lit/directives/repeat.js';
import { type Delivery, type Evidence, get, type Incident, type IncidentEvent, isAbort, type List, message, Problem } from '../api.ts';
import { count, duration, instant, percent, plural, signed } from '../format.ts';
import { live } from '../live.ts';
import { changeName, irrName, kindMeaning, kindName, leakType, rpkiName } from '../words.ts';
import { asnList, Following, moment, prefixLink, seenBy, severityBadge, severityName, statusBadge, View } from '../view.ts';
import '../graph/view.ts';
import '../timeline.ts';

const eventPage = 500;
const mostEvents = 5000;

/** One incident: what happened, the proof, and who was told. */
@customElement('rv-incident')
export class IncidentView extends View {
  @property() incidentId = '';
  @state() private incident: Incident | undefined;
  @state() private events: IncidentEvent[] = [];
  @state() private deliveries: Delivery[] | undefined;
  @state() private deliveriesError = '';
  @state() private error: unknown;
  @state() private copied = '';

  #abort = new AbortController();
  #stops: (() => void)[] = [];
  #headed = false;
  #soon: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    super();
    new Following(this);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.#stops = [
      live.on('incident', (event) => {
        if (event.incident.id === this.incidentId) this.#apply(event);
      }),
      live.on('resumed', () => void this.#load()),
    ];
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    for (const stop of this.#stops) stop();
    this.#abort.abort();
    clearTimeout(this.#soon);
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has('incidentId')) {
      this.incident = this.error = this.deliveries = undefined;
      this.events = [];
      this.#headed = false;
      void this.#load();
    }
  }

  async #load(): Promise<void> {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    const path = `incidents/${encodeURIComponent(this.incidentId)}`;
    try {
      const incident = await get<Incident>(path, {}, signal);
      if (!this.incident || incident.sequence >= this.incident.sequence) this.incident = incident;
      this.error = undefined;
      const events: IncidentEvent[] = [];
      for (let after: string | undefined = '0'; after !== undefined && events.length < mostEvents; ) {
        const page: List<IncidentEvent> = await get(`${path}/events`, { after, limit: eventPage }, signal);
        events.push(...(page.items ?? []));
        after = page.next;
      }
      this.#take(events);
      await this.#loadDeliveries();
    } catch (error) {
      if (!isAbort(error)) this.error = error;
    }
  }

  async #loadDeliveries(): Promise<void> {
    try {
      const list = await get<List<Delivery>>(`incidents/${encodeURIComponent(this.incidentId)}/deliveries`, {}, this.#abort.signal);
      this.deliveries = list.items ?? [];
      this.deliveriesError = '';
      // What is still on its way will have an answer soon.
      clearTimeout(this.#soon);
      if (this.deliveries.some((d) => d.state === 'pending')) this.#soon = setTimeout(() => void this.#loadDeliveries(), 5000);
    } catch (error) {
      if (!isAbort(error)) this.deliveriesError = message(error);
    }
  }

  #apply(event: IncidentEvent): void {
    if (!this.incident || event.incident.sequence > this.incident.sequence) this.incident = event.incident;
    this.#take([event]);
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => void this.#loadDeliveries(), 1000);
  }

  #take(events: IncidentEvent[]): void {
    const all = new Map(this.events.map((e) => [e.sequence, e]));
    for (const event of events) all.set(event.sequence, event);
    this.events = [...all.values()].sort((a, b) => a.sequence - b.sequence).slice(-mostEvents);
  }

  protected override updated(): void {
    if (!this.incident) return;
    document.title = `${this.incident.title} – routevigil`;
    // The heading that had the focus while this was loading is gone; a reader goes on at the real one.
    if (!this.#headed && document.activeElement === document.body) this.querySelector('h1')?.focus({ preventScroll: true });
    this.#headed = true;
  }

  protected override render() {
    const { incident } = this;
    if (!incident) {
      if (this.error === undefined) return html`<h1 class="visually-hidden" tabindex="-1">Incident</h1><p class="loading" aria-busy="true">Loading…</p>`;
      const missing = this.error instanceof Problem && this.error.status === 404;
      return html`<div class="empty"><h1 tabindex="-1">${missing ? 'There is no such incident' : 'The incident could not be loaded'}</h1>
        <p class="hostile">${message(this.error)}</p>
        ${missing ? html`<p><a href="/">All incidents</a></p>` : html`<button type="button" @click=${() => void this.#load()}>Try again</button>`}</div>`;
    }
    const detectedAfter = (instant(incident.detected_at) ?? 0) - (instant(incident.started_at) ?? 0);
    const leak = incident.rfc7908_type;
    const most = incident.status === 'open' ? incident.peak_visibility?.peers ?? 0 : 0;
    return html`<article class="incident">
      <a class="back" href="/">‹ All incidents</a>
      <header>
        <p class="badges">${severityBadge(incident.severity)} <span class="kind" title=${kindMeaning(incident.kind)}>${kindName(incident.kind)}</span> ${statusBadge(incident)}
          ${incident.peak_severity && incident.peak_severity !== incident.severity ? html`<span class="sub">at its worst: ${severityName(incident.peak_severity)}</span>` : nothing}</p>
        <h1 tabindex="-1"><span class="hostile">${incident.title}</span></h1>
        <p class="lead hostile">${incident.explanation}</p>
        <p class="explain">${kindMeaning(incident.kind)} ${leak ? `${leakType(leak)}.` : ''}</p>
        <div class="actions">
          <button type="button" @click=${() => void this.#copy()}>${this.copied || 'Copy link'}</button>
          <a class="button" href="/api/v1/incidents/${encodeURIComponent(incident.id)}" target="_blank" rel="noopener">JSON</a>
          <span class="visually-hidden" role="status">${this.copied}</span>
        </div>
      </header>
      ${this.error !== undefined ? html`<p class="notice warn" role="alert">${message(this.error)} What is shown may be old.</p>` : nothing}
      ${incident.degraded?.length
        ? html`<div class="notice warn"><strong>This verdict may be incomplete.</strong><ul>${incident.degraded.map((d) => html`<li class="hostile">${d}</li>`)}</ul></div>`
        : nothing}
      <dl class="facts eight">
        <div><dt>By</dt><dd>${asnList(incident.offenders)}</dd></div>
        <div><dt>Passed on by</dt><dd>${asnList(incident.accomplices)}</dd></div>
        <div><dt>Affects</dt><dd>${asnList(incident.victims)}</dd></div>
        <div><dt>Confidence</dt><dd>${percent(incident.confidence)}</dd></div>
        <div><dt>Seen by</dt><dd>${seenBy(incident)}<span class="sub">${incident.visibility.peers ? `${plural(incident.visibility.peer_asns, 'network')}, ${plural(incident.visibility.collectors, 'collector')}` : nothing}
          ${most > incident.visibility.peers ? `at most ${plural(most, 'peer')}` : nothing}${incident.status === 'ended' ? 'at its widest' : nothing}</span></dd></div>
        <div><dt>Prefixes</dt><dd>${count(incident.prefix_count)}</dd></div>
        <div><dt>Started</dt><dd>${moment(incident.started_at)}<span class="sub">detected ${detectedAfter >= 500 ? `${duration(detectedAfter)} later` : 'at once'}</span></dd></div>
        <div><dt>${incident.status === 'open' ? 'Lasts' : 'Lasted'}</dt><dd><rv-age mode="span" .from=${instant(incident.started_at)} .to=${instant(incident.ended_at)}></rv-age>
          <span class="sub">${incident.ended_at ? html`ended ${moment(incident.ended_at)}` : 'still open'}</span></dd></div>
      </dl>

      <section aria-labelledby="h-paths">
        <h2 id="h-paths">AS paths</h2>
        <rv-graph .incident=${incident}></rv-graph>
      </section>
      <div class="columns">
        <section aria-labelledby="h-time">
          <h2 id="h-time">Timeline</h2>
          <rv-timeline .events=${this.events}></rv-timeline>
          ${this.#changes()}
        </section>
        <section aria-labelledby="h-evidence">
          <h2 id="h-evidence">Evidence</h2>
          ${ledger(incident)}
        </section>
      </div>
      <section aria-labelledby="h-prefixes">
        <h2 id="h-prefixes">Affected prefixes <span class="sub">${count(incident.prefix_count)}</span></h2>
        ${prefixes(incident)}
      </section>
      <section aria-labelledby="h-told">
        <h2 id="h-told">Who was told</h2>
        ${this.#told()}
      </section>
      <footer class="sub">Incident <code>${incident.id}</code>, last changed ${moment(incident.updated_at)} by event ${count(incident.sequence)}</footer>
    </article>`;
  }

  async #copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(location.origin + location.pathname);
      this.copied = 'Link copied';
    } catch {
      // Without a secure context there is no clipboard; the address bar has the same link.
      this.copied = 'Copy it from the address bar';
    }
    setTimeout(() => (this.copied = ''), 2500);
  }

  #changes(): TemplateResult {
    const list = this.events.map((event, i) => ({ event, before: this.events[i - 1] })).reverse();
    if (list.length === 0) return html`<p class="empty-note">${this.error === undefined ? 'Loading…' : 'The changes could not be loaded.'}</p>`;
    return html`<ol class="changes" reversed tabindex="0" aria-label="Changes, the newest first">
      ${repeat(list, ({ event }) => event.sequence, ({ event, before }) => html`<li class=${event.change}>
        <span class="when">${moment(event.time)}</span>
        <strong>${changeName(event.change)}</strong>
        <span class="what">${difference(event, before)}</span>
      </li>`)}
    </ol>`;
  }

  #told(): TemplateResult {
    if (!this.deliveries) return html`<p class="empty-note">${this.deliveriesError || 'Loading…'}</p>`;
    if (this.deliveries.length === 0) return html`<p class="empty-note">Nobody: no receiver of the configuration wants this incident.</p>`;
    const changes = new Map(this.events.map((e) => [e.sequence, e.change]));
    return html`${this.deliveriesError ? html`<p class="notice warn">${this.deliveriesError} What is shown may be old.</p>` : nothing}
    <div class="table-scroll"><table class="stack">
      <thead><tr><th scope="col">Receiver</th><th scope="col">About</th><th scope="col">State</th><th scope="col">Attempts</th><th scope="col">When</th><th scope="col">Receipt or error</th></tr></thead>
      <tbody>${this.deliveries.map((d) => html`<tr>
        <th scope="row" class="hostile">${d.receiver}</th>
        <td data-label="About">${changes.has(d.sequence) ? changeName(changes.get(d.sequence)!) : `event ${count(d.sequence)}`}</td>
        <td data-label="State">${deliveryState(d)}</td>
        <td data-label="Attempts" class="number">${count(d.attempts)}</td>
        <td data-label="When">${moment(d.updated_at)}</td>
        <td data-label="Receipt or error" class="hostile">${d.state === 'delivered' ? d.receipt || '–' : (d.last_error ?? '–')}</td>
      </tr>`)}</tbody>
    </table></div>`;
  }
}

function deliveryState(d: Delivery): TemplateResult {
  if (d.state === 'delivered') return html`<span class="state good">Delivered</span>`;
  if (d.state === 'expired') return html`<span class="state bad">Given up</span>`;
  return html`<span class="state waiting">Waiting</span>${instant(d.next_attempt) === undefined ? nothing
    : html` <span class="sub">next attempt <rv-age mode="until" wall .from=${instant(d.next_attempt)}></rv-age></span>`}`;
}

/** What an event changed, in words; the first one says how it began. */
function difference(event: IncidentEvent, before: IncidentEvent | undefined): string {
  const is = event.incident;
  const was = before?.incident;
  const parts: string[] = [];
  const from = (one: string, many: string, a: number | undefined, b: number) => {
    if (a === undefined) parts.push(plural(b, one, many));
    else if (a !== b) parts.push(`${many} ${count(a)} → ${count(b)}`);
  };
  if (was && was.severity !== is.severity) parts.push(`severity ${severityName(was.severity)} → ${severityName(is.severity)}`);
  else if (!was) parts.push(severityName(is.severity));
  from('peer', 'peers', was?.visibility.peers, is.visibility.peers);
  from('prefix', 'prefixes', was?.prefix_count, is.prefix_count);
  if (was && percent(was.confidence) !== percent(is.confidence)) parts.push(`confidence ${percent(was.confidence)} → ${percent(is.confidence)}`);
  if (was && (is.evidence?.length ?? 0) > (was.evidence?.length ?? 0)) parts.push('more evidence');
  return parts.join(', ');
}

/** The ledger: what speaks for the verdict and, as plainly, what speaks against it. */
function ledger(incident: Incident): TemplateResult {
  const all = incident.evidence ?? [];
  if (all.length === 0) return html`<p class="empty-note">No evidence is recorded for this incident.</p>`;
  const most = Math.max(1, ...all.map((e) => Math.abs(e.weight)));
  const sum = all.reduce((total, e) => total + e.weight, 0);
  const pro = all.filter((e) => e.weight >= 0).sort((a, b) => b.weight - a.weight);
  const contra = all.filter((e) => e.weight < 0).sort((a, b) => a.weight - b.weight);
  const total = (list: Evidence[]) => signed(list.reduce((t, e) => t + e.weight, 0));
  const row = (e: Evidence) => html`<tr>
    <th scope="row"><code class="hostile">${e.rule.split(/(?<=[._])/).map((part) => html`${part}<wbr />`)}</code></th>
    <td class="weight" data-label="Weight"><span class="number">${signed(e.weight)}</span>${weightBar(e.weight / most)}</td>
    <td data-label="Detail" class="hostile">${e.detail}</td>
    <td data-label="Source" class="hostile">${e.source}${e.source_version ? html`<span class="sub">${e.source_version}</span>` : nothing}</td>
  </tr>`;
  return html`<div class="table-scroll"><table class="stack ledger">
    <thead><tr><th scope="col">Rule</th><th scope="col">Weight</th><th scope="col">Detail</th><th scope="col">Source</th></tr></thead>
    <tbody class="for">
      <tr class="group"><th colspan="4" scope="rowgroup"><span aria-hidden="true">▲</span> Speaks for an incident: ${total(pro)}</th></tr>
      ${pro.map(row)}
    </tbody>
    <tbody class="against">
      <tr class="group"><th colspan="4" scope="rowgroup"><span aria-hidden="true">▼</span> Speaks against it: ${contra.length ? total(contra) : 'nothing'}</th></tr>
      ${contra.map(row)}
    </tbody>
    <tfoot><tr><th scope="row">Sum</th><td class="weight"><span class="number">${signed(sum)}</span></td>
      <td colspan="2">Confidence <strong>${percent(incident.confidence)}</strong> = 1 / (1 + e<sup>−sum</sup>)</td></tr></tfoot>
  </table></div>`;
}

/** A bar to the right for, to the left against; -1 to 1. */
function weightBar(share: number): TemplateResult {
  const width = Math.abs(share) * 48;
  return html`<svg class="weight-bar" viewBox="0 0 100 10" width="80" height="10" preserveAspectRatio="none" aria-hidden="true">${svg`
    <rect class=${share < 0 ? 'against' : 'for'} x=${share < 0 ? 50 - width : 50} y="1" width=${Math.max(1, width)} height="8" rx="1"></rect>
    <line class="zero" x1="50" x2="50" y1="0" y2="10"></line>`}</svg>`;
}

const tones: Record<string, string> = { valid: 'good', registered: 'good', invalid: 'bad', contradicted: 'bad' };
export const stateTag = (state: string, name: string): TemplateResult => html`<span class="state ${tones[state] ?? 'neutral'}">${name}</span>`;

function prefixes(incident: Incident): TemplateResult {
  const list = incident.prefixes ?? [];
  if (list.length === 0) return html`<p class="empty-note">None.</p>`;
  return html`<div class="table-scroll"><table class="stack">
    <thead><tr><th scope="col">Prefix</th><th scope="col">Part of</th><th scope="col">Usual origin</th><th scope="col">Seen origin</th><th scope="col">RPKI</th><th scope="col">IRR</th></tr></thead>
    <tbody>${list.map((p) => html`<tr>
      <th scope="row">${prefixLink(p.prefix)}</th>
      <td data-label="Part of">${p.covering ? prefixLink(p.covering) : '–'}</td>
      <td data-label="Usual origin">${asnList(p.expected_origins)}</td>
      <td data-label="Seen origin">${asnList(p.observed_origins)}</td>
      <td data-label="RPKI">${stateTag(p.rpki, rpkiName(p.rpki))}</td>
      <td data-label="IRR">${stateTag(p.irr, irrName(p.irr))}</td>
    </tr>`)}</tbody>
  </table></div>
  ${incident.prefix_count > list.length ? html`<p class="sub">A sample of ${count(list.length)}; ${count(incident.prefix_count)} are affected.</p>` : nothing}`;
}

