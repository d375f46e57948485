import { html, LitElement, nothing, svg, type ReactiveController, type TemplateResult } from 'lit';
import { customElement, property } from 'lit/decorators.js';
import { live, eventNow } from './live.ts';
import type { Incident, Severity, Visibility } from './api.ts';
import { severities } from './api.ts';
import { ago, asn, count, duration, instant, time } from './format.ts';

/** Elements draw into the page itself: one style sheet, one document to search, link and read aloud. */
export class View extends LitElement {
  protected override createRenderRoot(): this {
    return this;
  }
}

/** Draws the host again whenever something is new. */
export class Following implements ReactiveController {
  #stop: (() => void) | undefined;
  constructor(private readonly host: LitElement) {
    host.addController(this);
  }
  hostConnected(): void {
    this.#stop = live.on('changed', () => this.host.requestUpdate());
  }
  hostDisconnected(): void {
    this.#stop?.();
  }
}

const ticking = new Set<Age>();
setInterval(() => {
  if (!document.hidden) for (const age of ticking) age.requestUpdate();
}, 1000);

/** A length of time that grows by itself: since `from`, or from `from` to `to`. Milliseconds. */
@customElement('rv-age')
export class Age extends View {
  @property({ type: Number }) from: number | undefined;
  @property({ type: Number }) to: number | undefined;
  /** "ago" says how long ago, "span" how long it lasted, "until" how long it still takes. */
  @property() mode: 'ago' | 'span' | 'until' = 'ago';
  /** Counts by this computer's clock instead of the time of the routing data. */
  @property({ type: Boolean }) wall = false;

  override connectedCallback(): void {
    super.connectedCallback();
    ticking.add(this);
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    ticking.delete(this);
  }
  protected override render() {
    if (this.from === undefined) return '–';
    const current = this.wall ? Date.now() : eventNow();
    if (this.mode === 'until') return this.from - current > 500 ? `in ${duration(this.from - current)}` : 'now';
    const length = (this.to ?? current) - this.from;
    return this.mode === 'span' ? duration(length) : ago(length);
  }
}

const names: Record<Severity, string> = { info: 'Info', low: 'Low', medium: 'Medium', high: 'High', critical: 'Critical' };
export const severityName = (s: Severity): string => names[s] ?? s;

/** The severity as a word and as a number of bars, so that it does not hang on colour. */
export function severityBadge(severity: Severity): TemplateResult {
  const rank = severities.indexOf(severity);
  return html`<span class="severity ${names[severity] ? severity : 'info'}"
    ><svg class="bars" viewBox="0 0 19 12" width="19" height="12" aria-hidden="true">
      ${severities.map((_, i) => bar(i, i <= rank))}</svg
    ><span class="visually-hidden">Severity: </span>${severityName(severity)}</span
  >`;
}

const bar = (i: number, full: boolean) =>
  svg`<rect class=${full ? 'full' : 'empty'} x=${i * 4} y=${full ? 9 - i * 2.25 : 10.5} width="3" height=${full ? 3 + i * 2.25 : 1.5} rx="0.75"></rect>`;

export function statusBadge(incident: Incident): TemplateResult {
  return incident.status === 'open'
    ? html`<span class="status open"><span class="dot" aria-hidden="true"></span>Open</span>`
    : html`<span class="status ended"><span class="dot" aria-hidden="true"></span>Ended</span>`;
}

export const asnLink = (n: number): TemplateResult => html`<a class="asn" href="/?asn=${n}" title="Incidents of AS${n}">${asn(n)}</a>`;

export function asnList(list: number[] | null, most = 4): TemplateResult | string {
  if (!list?.length) return '–';
  return html`${list.slice(0, most).map((n, i) => html`${i ? ', ' : ''}${asnLink(n)}`)}${list.length > most ? ` and ${count(list.length - most)} more` : nothing}`;
}

export const plainASNs = (list: number[] | null, most = 3): string =>
  (list ?? []).slice(0, most).map(asn).join(', ') + ((list?.length ?? 0) > most ? ` +${count(list!.length - most)}` : '');

export const prefixLink = (prefix: string): TemplateResult => html`<a class="prefix" href="/prefixes/${prefix}">${prefix}</a>`;

/** How widely it is seen; of what has ended, how widely it was. */
export const widest = (incident: Incident): Visibility => (incident.status === 'ended' && incident.peak_visibility) || incident.visibility;

/** Peers that see it among those that carry the full table, in words and as a bar. */
export function seenBy(incident: Incident): TemplateResult {
  const { peers, full_feed_peers: all } = widest(incident);
  const share = all > 0 ? Math.min(1, peers / all) : 0;
  return html`<span class="seen"
    >${count(peers)}${all > 0 ? html`<span class="of"> of ${count(all)}</span>` : nothing} <span class="unit">peers</span>
    <svg class="share" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
      <rect class="track" width="100" height="4"></rect>
      <rect class="fill" width=${share * 100} height="4"></rect></svg
  ></span>`;
}

/** How much larger than usual text is drawn, for pictures whose measures are pixels. */
export const scale = (): number => parseFloat(getComputedStyle(document.documentElement).fontSize) / 15;

/** An instant in full. */
export function moment(text: string | null | undefined): TemplateResult {
  const t = instant(text);
  if (t === undefined) return html`–`;
  return html`<time datetime=${new Date(t).toISOString()}>${time(t)} UTC</time>`;
}
