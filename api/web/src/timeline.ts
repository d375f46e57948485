import { html, nothing, svg, type TemplateResult } from 'lit';
import { customElement, property, state } from 'lit/decorators.js';
import type { IncidentEvent } from './api.ts';
import { clockTime, count, instant, plural, time } from './format.ts';
import { eventNow } from './live.ts';
import { ticks } from './timeline-ticks.ts';
import { changeName } from './words.ts';
import { scale, View } from './view.ts';

interface Sample {
  at: number;
  peers: number;
  prefixes: number;
  event: IncidentEvent;
}

const left = 46;
const right = 14;
const panel = 74;
const between = 26;
const axis = 24;

/** How an incident spread: peers and prefixes as steps over event time, with a mark at every change. */
@customElement('rv-timeline')
export class Timeline extends View {
  @property({ attribute: false }) events: IncidentEvent[] = [];
  @state() private width = 0;
  @state() private at: number | undefined;

  #size = new ResizeObserver(([entry]) => (this.width = Math.floor(entry!.contentRect.width / scale())));
  #tick: ReturnType<typeof setInterval> | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    this.width = Math.floor(this.clientWidth / scale());
    this.#size.observe(this);
    this.#tick = setInterval(() => !document.hidden && this.requestUpdate(), 5000);
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#size.disconnect();
    clearInterval(this.#tick);
  }

  protected override render() {
    const samples = this.events.flatMap((event): Sample[] => {
      const at = instant(event.time);
      const ended = event.change === 'ended';
      return at === undefined ? [] : [{ at, peers: ended ? 0 : event.incident.visibility.peers, prefixes: ended ? 0 : event.incident.prefix_count, event }];
    });
    const last = samples.at(-1);
    if (!last || this.width < 80) return nothing;
    const start = instant(last.event.incident.started_at) ?? samples[0]!.at;
    const open = last.event.incident.status === 'open';
    const end = Math.max(open ? eventNow() : last.at, last.at, start + 1000);
    // Past the end a little air, so that the last change does not sit on the border.
    const until = open ? end : end + (end - start) * 0.04;
    const x = (t: number) => left + ((t - start) / (until - start)) * (this.width - left - right);
    const height = 2 * panel + between + axis + 14;
    const bottom = 14 + 2 * panel + between;
    const shown = this.at === undefined ? last : (samples.findLast((s) => s.at <= this.at!) ?? samples[0]!);
    return html`<svg class="timeline" width=${this.width * scale()} height=${height * scale()} viewBox="0 0 ${this.width} ${height}" role="img"
        aria-label="Peers and prefixes from ${time(start)} to ${time(end)} UTC; the changes are listed below."
        @pointermove=${(e: PointerEvent) => {
          const box = (e.currentTarget as Element).getBoundingClientRect();
          this.at = start + ((((e.clientX - box.left) * this.width) / box.width - left) / (this.width - left - right)) * (until - start);
        }}
        @pointerleave=${() => (this.at = undefined)}>
        ${ticks(start, until, Math.max(2, Math.floor(this.width / 90))).map(
          (t) => svg`<line class="grid" x1=${x(t)} x2=${x(t)} y1="14" y2=${bottom}></line>
            <text class="tick" x=${x(t)} y=${bottom + 16} text-anchor=${x(t) > this.width - 30 ? 'end' : 'middle'}>${clockTime(t)}</text>`,
        )}
        ${this.#series('peers', 'Peers that see it', samples, x, end, 14)}
        ${this.#series('prefixes', 'Prefixes', samples, x, end, 14 + panel + between)}
        ${samples.map((s) => svg`<line class="mark ${s.event.change}" x1=${x(s.at)} x2=${x(s.at)} y1=${bottom - 5} y2=${bottom + 3}></line>`)}
        ${this.at === undefined ? nothing : svg`<line class="cursor" x1=${x(Math.max(shown.at, start))} x2=${x(Math.max(shown.at, start))} y1="14" y2=${bottom}></line>`}
      </svg>
      <p class="readout" aria-hidden="true">
        <strong>${changeName(shown.event.change)}</strong> ${time(shown.at)} UTC:
        ${plural(shown.peers, 'peer')}, ${plural(shown.prefixes, 'prefix', 'prefixes')}
      </p>`;
  }

  #series(what: 'peers' | 'prefixes', name: string, samples: Sample[], x: (t: number) => number, end: number, top: number): TemplateResult {
    const most = Math.max(1, ...samples.map((s) => s[what]));
    const y = (v: number) => top + panel - (v / most) * (panel - 16);
    let line = `M${x(samples[0]!.at)} ${y(0)}`;
    for (const s of samples) line += `H${x(s.at)}V${y(s[what])}`;
    line += `H${x(end)}`;
    return svg`<g class="series ${what}">
      <text class="label" x=${left} y=${top + 8}>${name}</text>
      <text class="tick" x=${left - 6} y=${y(most) + 4} text-anchor="end">${count(most)}</text>
      <text class="tick" x=${left - 6} y=${y(0) + 4} text-anchor="end">0</text>
      <line class="grid" x1=${left} x2=${this.width - right} y1=${y(0)} y2=${y(0)}></line>
      <path class="area" d="${line}V${y(0)}Z"></path>
      <path class="line" d=${line}></path>
    </g>`;
  }
}
