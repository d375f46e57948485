import { html, nothing, svg, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, state } from 'lit/decorators.js';
import { type Activity, type Bucket, get, isAbort, message } from './api.ts';
import { count, plural, shortTime } from './format.ts';
import { eventNow } from './live.ts';
import { ticks } from './timeline-ticks.ts';
import { scale, View } from './view.ts';

const minute = 60_000;
const hour = 60 * minute;

/** How far back, and in buckets of which length: about as many as there is room for. */
const spans = [
  { name: '6 hours', length: 6 * hour, bucket: 5 * minute, asked: '5m' },
  { name: '24 hours', length: 24 * hour, bucket: 15 * minute, asked: '15m' },
  { name: '7 days', length: 7 * 24 * hour, bucket: 2 * hour, asked: '2h' },
  { name: '30 days', length: 30 * 24 * hour, bucket: 8 * hour, asked: '8h' },
];

const left = 46;
const right = 4;
const top = 10;
const height = 150;
const axis = 22;

/** Buckets begin at whole minutes. */
const tick = (t: number, reference: number): string => shortTime(t, reference).replace(/^(\d\d:\d\d):00$/, '$1');

/** How often a prefix, or a part of it, was announced (upwards) and withdrawn (downwards), up to now. */
@customElement('rv-activity')
export class ActivityView extends View {
  @property() of = '';
  @state() private span = spans[1]!;
  @state() private answer: Activity | undefined;
  @state() private error = '';
  @state() private width = 0;
  @state() private at: number | undefined;

  #abort = new AbortController();
  #size = new ResizeObserver(([entry]) => (this.width = Math.floor(entry!.contentRect.width / scale())));
  #timer: ReturnType<typeof setInterval> | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    this.#size.observe(this);
    this.#timer = setInterval(() => !document.hidden && void this.#load(), minute);
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#size.disconnect();
    clearInterval(this.#timer);
    this.#abort.abort();
  }

  protected override willUpdate(changed: PropertyValues): void {
    if (changed.has('of') || changed.has('span')) {
      this.answer = undefined;
      this.at = undefined;
      void this.#load();
    }
  }

  async #load(): Promise<void> {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    const to = Math.ceil(eventNow() / this.span.bucket) * this.span.bucket;
    const iso = (t: number) => new Date(t).toISOString();
    try {
      this.answer = await get<Activity>('activity', { prefix: this.of, match: 'covered', from: iso(to - this.span.length), to: iso(to), bucket: this.span.asked }, signal);
      this.error = '';
    } catch (error) {
      if (!isAbort(error)) this.error = message(error);
    }
  }

  protected override render() {
    return html`<p class="choice"><label>The last
        <select name="span" @change=${(e: Event) => (this.span = spans[(e.target as HTMLSelectElement).selectedIndex]!)}>
          ${spans.map((s) => html`<option ?selected=${s === this.span}>${s.name}</option>`)}
        </select></label></p>
      ${this.error ? html`<p class="notice warn"><span class="hostile">${this.error}</span></p>` : nothing}
      ${this.answer ? this.#chart(this.answer) : this.error ? nothing : html`<p class="loading">Loading…</p>`}`;
  }

  #chart(answer: Activity): TemplateResult | typeof nothing {
    if (this.width < 80) return nothing;
    const series = answer.series?.[0];
    const buckets = series?.buckets ?? [];
    const from = Date.parse(answer.from);
    const to = Date.parse(answer.to);
    const length = answer.bucket_seconds * 1000;
    const most = (of: (b: Bucket) => number) => Math.max(0, ...buckets.map(of));
    const up = most((b) => b.announcements);
    const down = most((b) => b.withdrawals);
    const unit = height / Math.max(1, up + down); // one scale for both, so that they compare
    const zero = top + up * unit;
    const bottom = top + height;
    const x = (t: number) => left + ((t - from) / (to - from)) * (this.width - left - right);
    const wide = Math.max(1, x(from + length) - x(from) - 1);
    const shown = this.at === undefined ? undefined : from + Math.floor((this.at - from) / length) * length;
    const bucket = buckets.find((b) => Date.parse(b.time) === shown);
    const said = (b: { announcements: number; withdrawals: number } | undefined) =>
      `${plural(b?.announcements ?? 0, 'announcement')}, ${plural(b?.withdrawals ?? 0, 'withdrawal')}`;
    return html`<svg class="activity" width=${this.width * scale()} height=${(bottom + axis) * scale()} viewBox="0 0 ${this.width} ${bottom + axis}" role="img"
        aria-label="The last ${this.span.name}: ${said(series)}; at most ${count(up)} and ${count(down)} in ${this.span.asked}."
        @pointermove=${(e: PointerEvent) => {
          const box = (e.currentTarget as Element).getBoundingClientRect();
          const at = from + ((((e.clientX - box.left) * this.width) / box.width - left) / (this.width - left - right)) * (to - from);
          this.at = at >= from && at < to ? at : undefined;
        }}
        @pointerleave=${() => (this.at = undefined)}>
        ${shown === undefined ? nothing : svg`<rect class="cursor" x=${x(shown)} width=${wide + 1} y=${top} height=${height}></rect>`}
        ${ticks(from, to, Math.max(2, Math.floor(this.width / 110))).map(
          (t) => svg`<line class="grid" x1=${x(t)} x2=${x(t)} y1=${top} y2=${bottom}></line>
            <text class="tick" x=${x(t)} y=${bottom + 16} text-anchor=${x(t) > this.width - 40 ? 'end' : 'middle'}>${tick(t, to)}</text>`,
        )}
        ${buckets.map((b) => {
          const at = x(Date.parse(b.time));
          return svg`${b.announcements ? svg`<rect class="announced" x=${at} width=${wide} y=${zero - b.announcements * unit} height=${b.announcements * unit}></rect>` : nothing}
            ${b.withdrawals ? svg`<rect class="withdrawn" x=${at} width=${wide} y=${zero} height=${b.withdrawals * unit}></rect>` : nothing}`;
        })}
        <line class="zero" x1=${left} x2=${this.width - right} y1=${zero} y2=${zero}></line>
        ${up ? svg`<text class="tick" x=${left - 6} y=${top + 9} text-anchor="end">${count(up)}</text>` : nothing}
        ${down ? svg`<text class="tick" x=${left - 6} y=${bottom} text-anchor="end">${count(down)}</text>` : nothing}
      </svg>
      <p class="readout" aria-hidden="true">
        ${shown === undefined
          ? html`<span class="key announced"></span> Announced, upwards: <strong>${count(series?.announcements ?? 0)}</strong>.
              <span class="key withdrawn"></span> Withdrawn, downwards: <strong>${count(series?.withdrawals ?? 0)}</strong>.`
          : html`<strong>${tick(shown, to)} to ${tick(shown + length, to)} UTC:</strong> ${said(bucket)}`}
      </p>`;
  }
}
