import { html, nothing } from 'lit';
import { customElement } from 'lit/decorators.js';
import { repeat } from 'lit/directives/repeat.js';
import { count, instant, shortTime, time } from './format.ts';
import { type Filter, filterFrom, noFilter } from './filter.ts';
import { IncidentList, live, type Row } from './live.ts';
import { kindName } from './words.ts';
import { Following, plainASNs, severityBadge, statusBadge, View, widest } from './view.ts';
import { encodeQuery } from './api.ts';

const parameters = new URLSearchParams(location.search);
const theme = parameters.get('theme');
document.documentElement.dataset['theme'] = theme === 'light' || theme === 'dark' ? theme : 'auto';

/**
 * A short list of incidents for other people's pages: /embed/incidents?asn=&prefix=&kind=&status=&
 * min_severity=&limit=&theme=. It tells the page around it how high it is by posting
 * {type: "routevigil:height", height: pixels}.
 */
@customElement('rv-embed')
export class Embed extends View {
  #filter: Filter = filterFrom(parameters);
  #limit = Math.min(50, Math.max(1, Math.trunc(Number(parameters.get('limit'))) || 5));
  #list = new IncidentList(this.#limit, () => this.requestUpdate());

  constructor() {
    super();
    new Following(this);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    live.interval = 30_000;
    live.start();
    void this.#list.load(this.#filter);
    let posted = 0;
    new ResizeObserver(() => {
      const height = Math.ceil(this.getBoundingClientRect().height);
      if (height === posted || parent === window) return;
      posted = height;
      // A height is no secret: whoever frames us may know it.
      parent.postMessage({ type: 'routevigil:height', height }, '*');
    }).observe(this);
  }

  protected override render() {
    const list = this.#list;
    const lost = live.connection.state !== 'open' && live.lostAt !== undefined;
    const failed = lost || list.error !== undefined;
    const about = [this.#filter.asn && `AS${this.#filter.asn}`, this.#filter.prefix].filter(Boolean).join(', ');
    const rows = list.rows.slice(0, this.#limit);
    const blind = live.feeds !== undefined && !live.feeds.some((f) => f.state === 'connected');
    return html`
      <header><h1>Routing incidents${about ? html` <span class="about hostile">${about}</span>` : nothing}</h1>
        ${failed
          ? html`<span class="state bad">Not reachable</span>`
          : live.connection.state !== 'open'
            ? html`<span class="state waiting">Connecting</span>`
            : blind
              ? html`<span class="state waiting">Not ready</span>`
              : html`<span class="state good">Live</span>`}
      </header>
      <p class="embed-problem" role="status">${failed
        ? `${list.error && !lost ? list.error : 'The server cannot be reached.'} ${list.loaded ? 'This list may be old. ' : ''}Trying again.`
        : blind ? 'No feed delivers fresh routes now, so new incidents may be missed.' : ''}</p>
      ${rows.length ? html`<ul class="embed-rows">${repeat(rows, (row) => row.incident.id, embedRow)}</ul>`
        : list.loaded ? html`<p class="embed-empty">No incidents${about ? ` of ${about}` : ''}.</p>`
        : failed ? nothing : html`<p class="embed-empty" aria-busy="true">Loading…</p>`}
      <footer><a href="/${encodeQuery({ ...noFilter, ...this.#filter })}" target="_blank" rel="noopener">All incidents on routevigil</a></footer>`;
  }

  protected override updated(): void {
    if (!this.#list.loaded && this.#list.error !== undefined && !this.#list.loading) this.#retryLater();
  }

  #timer: ReturnType<typeof setTimeout> | undefined;
  #retryLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#list.load(this.#filter);
    }, 10_000);
  }
}

function embedRow({ incident, fresh }: Row) {
  const started = instant(incident.started_at);
  const parties = [plainASNs(incident.offenders, 2), plainASNs(incident.victims, 2)].filter(Boolean).join(' › ');
  return html`<li class="embed-row ${fresh ? 'fresh' : ''} ${incident.status}" data-id=${incident.id}>
    <p class="badges">${severityBadge(incident.severity)} ${statusBadge(incident)}
      <span class="when">${started === undefined ? '' : html`<time datetime=${incident.started_at} title="${time(started)} UTC">${shortTime(started, Date.now())}</time>`}</span></p>
    <a href="/incidents/${encodeURIComponent(incident.id)}" target="_blank" rel="noopener"><span class="hostile">${incident.title}</span></a>
    <p class="sub">${kindName(incident.kind)}${parties ? ` · ${parties}` : ''} · ${count(widest(incident).peers)} of ${count(widest(incident).full_feed_peers)} peers</p>
  </li>`;
}
