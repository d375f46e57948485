import { html, nothing, type TemplateResult } from 'lit';
import { customElement, state } from 'lit/decorators.js';
import { parsePrefix } from './address.ts';
import { prefixPath } from './api.ts';
import { ago, count, instant, plural, time } from './format.ts';
import { eventNow, live } from './live.ts';
import { followLinks, navigate, type Navigation, type Route, routeOf } from './router.ts';
import { Following, View } from './view.ts';
import type { IncidentsView } from './views/incidents.ts';
import './views/incidents.ts';
import './views/incident.ts';
import { feedState } from './views/feeds.ts';
import './views/prefix.ts';
import './views/watches.ts';

@customElement('rv-app')
export class App extends View {
  @state() private route: Route = routeOf(location.pathname);
  @state() private query = '';
  @state() private queryError = '';

  constructor() {
    super();
    new Following(this);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    addEventListener('popstate', () => this.#go({ keepFocus: false }));
    addEventListener('navigate', (event) => this.#go((event as CustomEvent<Navigation>).detail));
    followLinks();
    setInterval(() => !document.hidden && this.requestUpdate(), 1000); // the age of the data
    live.start();
  }

  #go(navigation: Navigation): void {
    const before = this.route.page;
    this.route = routeOf(location.pathname);
    this.queryError = '';
    this.querySelector<IncidentsView>('rv-incidents')?.locationChanged();
    if (navigation.keepFocus) return;
    void this.updateComplete.then(() => {
      if (before !== this.route.page || this.route.page !== 'incidents') {
        scrollTo(0, 0);
        // A reader who follows a link hears where it led.
        requestAnimationFrame(() => this.querySelector<HTMLElement>('main h1')?.focus({ preventScroll: true }));
      }
    });
  }

  #lookUp(event: Event): void {
    event.preventDefault();
    const text = this.query.trim();
    if (!parsePrefix(text)) {
      this.queryError = text ? 'Not a prefix or an address. Write 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1.' : '';
      return;
    }
    this.queryError = '';
    navigate(`/prefixes/${prefixPath(text)}`);
  }

  protected override updated(): void {
    const { page } = this.route;
    if (page === 'incident') return; // it sets its own
    const open = live.status?.counts.open_incidents ?? 0;
    const name = page === 'feeds' ? 'Feeds – ' : page === 'watches' ? 'Watches – ' : page === 'prefix' ? `${this.route.page === 'prefix' ? this.route.prefix : ''} – ` : open ? `(${open}) ` : '';
    document.title = `${name}routevigil`;
  }

  protected override render() {
    const { page } = this.route;
    return html`
      <a class="skip" href="#main">Skip to the content</a>
      <header class="top">
        <a class="brand" href="/" aria-label="routevigil, all incidents">${mark}<span>routevigil</span></a>
        <nav aria-label="Pages">
          <a href="/" aria-current=${page === 'incidents' || page === 'incident' ? 'page' : nothing}>Incidents</a>
          <a href="/watches" aria-current=${page === 'watches' ? 'page' : nothing}>Watches</a>
          <a href="/feeds" aria-current=${page === 'feeds' ? 'page' : nothing}>Feeds</a>
        </nav>
        <form class="look-up" role="search" aria-label="Look up a prefix" @submit=${(e: Event) => this.#lookUp(e)}>
          <input type="search" name="prefix" aria-label="Prefix or address" placeholder="Look up a prefix or address" autocomplete="off" spellcheck="false"
            aria-invalid=${this.queryError !== ''} aria-describedby="look-up-error" .value=${this.query}
            @input=${(e: Event) => {
              this.query = (e.target as HTMLInputElement).value;
              this.queryError = '';
            }} />
          <button type="submit">Look up</button>
          <p id="look-up-error" class="field-error" role="alert">${this.queryError}</p>
        </form>
      </header>
      ${this.#health()}
      <main id="main" tabindex="-1">${this.#page()}</main>
      <footer class="bottom">
        <span>routevigil ${live.status?.version ?? ''}</span>
        <a href="/api/openapi.json" target="_blank" rel="noopener">API</a>
        <a href="/embed/incidents" target="_blank" rel="noopener">Embed</a>
        <span>All times are UTC</span>
      </footer>`;
  }

  #page(): TemplateResult {
    switch (this.route.page) {
      case 'incidents':
        return html`<rv-incidents></rv-incidents>`;
      case 'incident':
        return html`<rv-incident .incidentId=${this.route.id}></rv-incident>`;
      case 'feeds':
        return html`<rv-feeds></rv-feeds>`;
      case 'watches':
        return html`<rv-watches></rv-watches>`;
      case 'prefix':
        return html`<rv-prefix .asked=${this.route.prefix}></rv-prefix>`;
      case 'unknown':
        return html`<div class="empty"><h1 tabindex="-1">There is nothing here</h1><p>The address may be mistyped. <a href="/">All incidents</a></p></div>`;
    }
  }

  /** One line that is always there: is what the page shows true now, and if not, why. */
  #health(): TemplateResult {
    const { connection, status, feeds } = live;
    const lost = connection.state !== 'open' && live.lostAt !== undefined;
    const down = (feeds ?? []).filter((f) => f.state !== 'connected' && f.state !== 'done');
    const reasons = (status?.reasons ?? []).filter((reason) => !down.some((f) => f.last_error && reason.includes(f.last_error)));
    const troubled = status !== undefined && (down.length > 0 || !status.ready || reasons.length > 0);
    return html`<div class="health ${lost || live.unreachable ? 'lost' : troubled ? 'troubled' : ''}">
      <p class="line">
        ${lost
          ? html`<span class="state bad">Connection lost</span>`
          : connection.state === 'connecting'
            ? html`<span class="state waiting">Connecting</span>`
            : status?.ready === false
              ? html`<span class="state waiting">Not ready</span>`
              : html`<span class="state good">Live</span>`}
        ${status?.mode === 'demo' ? html`<span class="tag" title="Invented routes from a scenario; nothing here is happening on the Internet.">Demo</span>` : nothing}
        ${this.#freshness()}
      </p>
      <div role="status">
        ${lost || live.unreachable
          ? html`<p class="problem">This page has lost its server${connection.state === 'waiting' ? `: ${connection.reason}` : ''}${live.lostAt ? ` (since ${time(live.lostAt, Date.now())} UTC)` : ''}. What you see may be old.
              ${connection.state === 'waiting' ? html`It tries again by itself <span aria-live="off"><rv-age mode="until" wall .from=${connection.until}></rv-age></span>.` : nothing}
              <button type="button" class="small" @click=${() => live.retry()}>Try now</button></p>`
          : nothing}
        ${troubled && !lost
          ? html`${down.map(
                (f) => html`<p class="problem"><strong class="hostile">${f.name}</strong> ${feedState(f)}
                  <span class="hostile">${f.last_error ?? (f.state === 'lagging' ? `its messages are ${Math.round(f.lag_seconds)} s old` : f.state === 'stalled' ? 'nothing arrives' : '')}</span>
                  ${instant(f.next_attempt) === undefined ? nothing : html`· next attempt <span aria-live="off"><rv-age mode="until" wall .from=${instant(f.next_attempt)}></rv-age></span>`}
                  · <a href="/feeds">Feeds</a></p>`,
              )}
              ${reasons.map((reason) => html`<p class="problem hostile">${reason}</p>`)}`
          : nothing}
      </div>
    </div>`;
  }

  #freshness(): TemplateResult {
    const { status, feeds } = live;
    if (!status) return html`<span>${live.unreachable ?? 'Asking the server…'}</span>`;
    const up = (feeds ?? []).filter((f) => f.state === 'connected');
    const seen = instant(status.event_time);
    return html`<span
        >${feeds?.length ? html`Watching ${count(up.length)} of ${plural(feeds.length, 'feed')}, ${plural(up.reduce((n, f) => n + f.peers, 0), 'peer')}` : 'No feeds'}</span
      >
      <span>${seen === undefined ? 'No routing data yet' : html`Routing data of <time datetime=${status.event_time}>${time(seen, eventNow())}</time>, ${ago(Math.max(0, eventNow() - seen))}`}</span>`;
  }
}

const mark = html`<svg class="brand-mark" viewBox="0 0 32 32" width="24" height="24" aria-hidden="true">
  <path d="M4 16C9 8 23 8 28 16C23 24 9 24 4 16Z" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linejoin="round"></path>
  <path class="ray" d="M16 16H26.5" stroke-width="2.4" stroke-linecap="round"></path>
  <circle cx="16" cy="16" r="3.8" fill="currentColor"></circle>
</svg>`;
