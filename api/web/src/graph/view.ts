import { html, nothing, svg, type TemplateResult } from 'lit';
import { customElement, property, state } from 'lit/decorators.js';
import type { Incident } from '../api.ts';
import { asn, plural } from '../format.ts';
import { scale, View } from '../view.ts';
import { type Edge, type Graph, layout, type Node, type Path } from './layout.ts';

type Role = 'offender' | 'accomplice' | 'victim';

const nodeWidth = 104;
const nodeHeight = 26;

/** The usual and the offending paths of an incident as one picture, and the same in words below it. */
@customElement('rv-graph')
export class GraphView extends View {
  @property({ attribute: false }) incident!: Incident;
  @state() private available = 0;
  /** The paths to bring forward: what the pointer or the focus is on. */
  @state() private hovered: number[] | undefined;
  /** The same, kept until it is chosen again or Escape is pressed. */
  @state() private pinned: number[] | undefined;
  /** The node that the Tab key reaches; the arrow keys go on from there. */
  @state() private current: number | undefined;

  #graph: Graph | undefined;
  #key = '';
  #size = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry!.contentRect.width / scale());
    if (Math.abs(width - this.available) > 8) this.available = width;
  });

  override connectedCallback(): void {
    super.connectedCallback();
    this.available = Math.floor(this.clientWidth / scale());
    this.#size.observe(this);
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#size.disconnect();
  }

  #role(asn: number): Role | undefined {
    const { offenders, accomplices, victims } = this.incident;
    if (offenders?.includes(asn)) return 'offender';
    if (accomplices?.includes(asn)) return 'accomplice';
    return victims?.includes(asn) ? 'victim' : undefined;
  }

  #layout(): Graph {
    const { paths, usual_paths } = this.incident;
    const key = JSON.stringify([paths, usual_paths, this.available]);
    if (!this.#graph || key !== this.#key) {
      // Not the element's full width: its border and the scroll bar of a tall picture need room too.
      this.#graph = layout(usual_paths ?? [], paths ?? [], {
        nodeWidth, nodeHeight, columnGap: 34, rowGap: 13, margin: 14, width: this.available - 4,
      });
      this.#key = key;
      this.hovered = this.pinned = undefined;
    }
    return this.#graph;
  }

  protected override render() {
    const graph = this.#layout();
    if (graph.nodes.length === 0) return html`<p class="empty-note">No paths are recorded for this incident.</p>`;
    const offending = graph.paths.filter((p) => p.offending).length;
    const usual = graph.paths.length - offending;
    const active = new Set(this.hovered ?? this.pinned);
    const top = 22;
    const width = Math.ceil(graph.width);
    const height = Math.ceil(graph.height + top);
    const focusable = graph.nodes.some((n) => n.asn === this.current) ? this.current : graph.nodes[0]!.asn;
    return html`
      <div class="legend" aria-hidden="true">
        ${offending ? legend('offending', `Offending (${plural(offending, 'path')})`) : nothing}
        ${usual ? legend('usual', `Usual (${plural(usual, 'path')})`) : nothing}
        <span class="hint">Wider: more paths. Point at a network or a path to follow it.</span>
      </div>
      <div class="graph-scroll">
        <svg class="graph ${active.size ? 'has-active' : ''}" width=${width * scale()} height=${height * scale()} viewBox="0 0 ${width} ${height}"
          role="group" aria-label="Graph of ${plural(offending, 'offending path')} and ${plural(usual, 'usual path')} through ${plural(graph.nodes.length, 'network')}. Arrow keys move between networks, Enter keeps one in view. The paths are listed below."
          @keydown=${(e: KeyboardEvent) => this.#steer(e, graph)} @pointerleave=${() => (this.hovered = undefined)}>
          <text class="column" x="14" y="14">${graph.layers > 1 ? 'Peers of the collectors' : ''}</text>
          <text class="column" x=${width - 14} y="14" text-anchor="end">Origin</text>
          <g transform="translate(0 ${top})">
            ${[...graph.edges].sort((a, b) => a.offending - b.offending).map((edge) => this.#edge(edge, active))}
            ${graph.nodes.map((node) => this.#node(node, active, node.asn === focusable))}
          </g>
        </svg>
      </div>
      <details class="paths" open>
        <summary>The same paths in words</summary>
        <p class="explain">Each from the network that heard it to the origin.</p>
        <ul class="path-list">
          ${graph.paths.map((path, i) => this.#words(path, i, active))}
        </ul>
      </details>`;
  }

  #edge(edge: Edge, active: Set<number>): TemplateResult {
    const lit = edge.paths.some((p) => active.has(p));
    const lines = [
      ['usual', edge.usual],
      ['offending', edge.offending],
    ] as const;
    const both = edge.usual > 0 && edge.offending > 0;
    return svg`<g class="edge ${lit ? 'active' : ''}" data-from=${edge.from} data-to=${edge.to}
      @pointerenter=${() => (this.hovered = edge.paths)}>
      <path class="target" d=${curve(edge, 0)}></path>
      ${lines.map(([kind, n]) => n
          ? svg`<path class=${kind} d=${curve(edge, both ? (kind === 'usual' ? -1 : 1) * (1 + thickness(n) / 2) : 0)} stroke-width=${thickness(n)}></path>`
          : nothing)}
    </g>`;
  }

  #node(node: Node, active: Set<number>, focusable: boolean): TemplateResult {
    const role = this.#role(node.asn);
    const lit = node.paths.some((p) => active.has(p));
    const paths = this.#graph!.paths;
    const bad = node.paths.filter((p) => paths[p]!.offending).length;
    const place = [role, node.peer ? 'peer of a collector' : '', node.origin ? 'origin' : ''].filter(Boolean).join(', ');
    const label = `${asn(node.asn)}${place ? `, ${place}` : ''}: on ${plural(bad, 'offending path')} and ${plural(node.paths.length - bad, 'usual path')}`;
    return svg`<g class="node ${role ?? ''} ${node.peer ? 'peer' : ''} ${node.origin ? 'origin' : ''} ${lit ? 'active' : ''}" data-asn=${node.asn}
      transform="translate(${node.x - nodeWidth / 2} ${node.y - nodeHeight / 2})"
      tabindex=${focusable ? 0 : -1} role="button" aria-pressed=${this.pinned === node.paths} aria-label=${label}
      @focus=${() => { this.current = node.asn; this.hovered = node.paths; }}
      @blur=${() => (this.hovered = undefined)}
      @pointerenter=${() => (this.hovered = node.paths)}
      @click=${() => this.#pin(node.paths)}>
      <title>${label}</title>
      ${role === 'offender' ? svg`<path class="box" d=${octagon}></path>` : svg`<rect class="box" width=${nodeWidth} height=${nodeHeight} rx=${role ? 3 : 13}></rect>`}
      ${role === 'accomplice' ? svg`<rect class="inner" x="3" y="3" width=${nodeWidth - 6} height=${nodeHeight - 6} rx="1.5"></rect>` : nothing}
      <text class="name" x=${nodeWidth / 2} y="17.5" text-anchor="middle">${asn(node.asn)}</text>
      ${role ? svg`<text class="role" x=${nodeWidth / 2} y=${nodeHeight + 10} text-anchor="middle">${role}</text>` : nothing}
    </g>`;
  }

  #words(path: Path, index: number, active: Set<number>): TemplateResult {
    const own = [index];
    return html`<li>
      <button type="button" class="path ${path.offending ? 'offending' : 'usual'} ${active.has(index) ? 'active' : ''}"
        aria-pressed=${this.pinned?.length === 1 && this.pinned[0] === index}
        @pointerenter=${() => (this.hovered = own)} @pointerleave=${() => (this.hovered = undefined)}
        @focus=${() => (this.hovered = own)} @blur=${() => (this.hovered = undefined)} @click=${() => this.#pin(own)}>
        <span class="path-kind">${path.offending ? 'Offending' : 'Usual'}</span>
        <span class="hops">${path.hops.map((hop, i) => {
          const role = this.#role(hop);
          return html`${i ? html`<span class="arrow" aria-label="to"> › </span>` : nothing}<span class="hop ${role ?? ''}">${asn(hop)}${role ? html`<span class="visually-hidden"> (${role})</span>` : nothing}</span>`;
        })}</span>
        ${path.count > 1 ? html`<span class="path-count">× ${path.count}</span>` : nothing}
      </button>
    </li>`;
  }

  #pin(paths: number[]): void {
    const same = this.pinned?.join() === paths.join();
    this.pinned = same ? undefined : paths;
  }

  #shownEnd = false;
  protected override updated(): void {
    // Where the picture is wider than the page it opens at its right end, where the news is.
    const frame = this.querySelector('.graph-scroll');
    if (this.#shownEnd || !frame || frame.scrollWidth <= frame.clientWidth) return;
    frame.scrollLeft = frame.scrollWidth;
    this.#shownEnd = true;
  }

  #steer(event: KeyboardEvent, graph: Graph): void {
    const from = graph.nodes.find((n) => n.asn === Number((event.target as Element).closest('[data-asn]')?.getAttribute('data-asn')));
    if (!from) return;
    if (event.key === 'Enter' || event.key === ' ') this.#pin(from.paths);
    else if (event.key === 'Escape') this.pinned = undefined;
    else {
      const next = neighbour(graph, from, event.key);
      if (!next) return;
      this.querySelector<SVGGElement>(`[data-asn="${next.asn}"]`)?.focus();
    }
    event.preventDefault();
  }
}

/** The node that an arrow key leads to: along an edge sideways, within the layer up and down. */
function neighbour(graph: Graph, from: Node, key: string): Node | undefined {
  const byDistance = (a: Node, b: Node) => Math.abs(a.y - from.y) - Math.abs(b.y - from.y);
  const vertical = key === 'ArrowUp' ? -1 : key === 'ArrowDown' ? 1 : 0;
  if (vertical) return graph.nodes.filter((n) => n.layer === from.layer && (n.y - from.y) * vertical > 0).sort(byDistance)[0];
  const sideways = key === 'ArrowLeft' ? -1 : key === 'ArrowRight' ? 1 : 0;
  if (!sideways) return undefined;
  const linked = new Set(graph.edges.flatMap((e) => (e.from === from.asn ? [e.to] : e.to === from.asn ? [e.from] : [])));
  return graph.nodes.filter((n) => linked.has(n.asn) && (n.x - from.x) * sideways > 0).sort(byDistance)[0];
}

const thickness = (paths: number): number => Math.round((1.6 + 1.6 * (Math.sqrt(paths) - 1)) * 10) / 10;

const octagon = `M7 0H${nodeWidth - 7}L${nodeWidth} 7V${nodeHeight - 7}L${nodeWidth - 7} ${nodeHeight}H7L0 ${nodeHeight - 7}V7Z`;

function curve(edge: Edge, shift: number): string {
  const points = edge.points.map((p) => ({ x: p.x, y: p.y + shift }));
  const ahead = points.at(-1)!.x > points[0]!.x ? 1 : -1;
  points[0]!.x += (ahead * nodeWidth) / 2;
  points.at(-1)!.x -= (ahead * nodeWidth) / 2;
  // Between two layers an edge keeps to the height of its slot for a node's width, clear of the boxes there.
  const flat = nodeWidth / 2;
  let d = `M${points[0]!.x} ${round(points[0]!.y)}`;
  points.slice(1).forEach((to, i) => {
    const from = points[i]!;
    const start = i === 0 ? from.x : from.x + ahead * flat;
    const end = i === points.length - 2 ? to.x : to.x - ahead * flat;
    const middle = round((start + end) / 2);
    d += `${i === 0 ? '' : `L${round(start)} ${round(from.y)}`}C${middle} ${round(from.y)} ${middle} ${round(to.y)} ${round(end)} ${round(to.y)}`;
  });
  return d;
}

const round = (n: number): number => Math.round(n * 10) / 10;

function legend(kind: string, text: string): TemplateResult {
  return html`<span class="key"
    ><svg width="34" height="8" aria-hidden="true"><path class=${kind} d="M0 4H34" stroke-width=${kind === 'offending' ? 3 : 2}></path></svg>${text}</span
  >`;
}
