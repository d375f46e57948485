/**
 * Lays AS paths out as one layered graph: who heard it on the left, who originates it on the right,
 * every AS once. The steps are those of Sugiyama, Tagawa and Toda (1981), kept small because a
 * picture here has at most forty paths: break cycles, assign layers, order each layer by barycentres
 * to avoid crossings, then place nodes as close to their neighbours as the order allows.
 *
 * Everything is deterministic: the same paths give the same picture.
 */

export interface Path {
  hops: number[];
  offending: boolean;
  /** How many of the paths given were this one. */
  count: number;
}

export interface Node {
  asn: number;
  layer: number;
  /** Centre, in the units of Measures. */
  x: number;
  y: number;
  /** It speaks to a collector: some path begins here. */
  peer: boolean;
  /** Some path ends here. */
  origin: boolean;
  /** Indices of the paths through it. */
  paths: number[];
}

export interface Edge {
  from: number;
  to: number;
  /** Indices of the paths over it. */
  paths: number[];
  usual: number;
  offending: number;
  /** From the centre of `from` to the centre of `to`, by way of the layers between. */
  points: { x: number; y: number }[];
}

export interface Graph {
  paths: Path[];
  nodes: Node[];
  edges: Edge[];
  width: number;
  height: number;
  layers: number;
}

export interface Measures {
  nodeWidth: number;
  nodeHeight: number;
  /** Least distance between two layers, edge to edge. */
  columnGap: number;
  rowGap: number;
  margin: number;
  /** The width to fill when the graph needs less; columns move apart up to twice a node's width. */
  width: number;
}

/** Joins equal paths and removes prepending, which tells nothing about who speaks to whom. */
export function normalise(usual: number[][], offending: number[][]): Path[] {
  const paths = new Map<string, Path>();
  for (const [list, bad] of [[offending, true], [usual, false]] as const) {
    for (const raw of list) {
      const hops = raw.filter((hop, i) => hop !== raw[i - 1]);
      if (hops.length === 0) continue;
      const key = `${bad}:${hops.join(' ')}`;
      const known = paths.get(key);
      if (known) known.count++;
      else paths.set(key, { hops, offending: bad, count: 1 });
    }
  }
  return [...paths.values()];
}

export function layout(usual: number[][], offending: number[][], measures: Measures): Graph {
  const paths = normalise(usual, offending);
  const nodes = new Map<number, Node>();
  const edges = new Map<string, Edge>();
  const node = (asn: number) => {
    let n = nodes.get(asn);
    if (!n) nodes.set(asn, (n = { asn, layer: 0, x: 0, y: 0, peer: false, origin: false, paths: [] }));
    return n;
  };
  paths.forEach((path, index) => {
    for (const hop of new Set(path.hops)) node(hop).paths.push(index);
    node(path.hops[0]!).peer = true;
    node(path.hops.at(-1)!).origin = true;
    const crossed = new Set<string>(); // a path with a loop may go over an edge twice
    for (let i = 1; i < path.hops.length; i++) {
      const [from, to] = [path.hops[i - 1]!, path.hops[i]!];
      const key = `${from}>${to}`;
      if (crossed.has(key)) continue;
      crossed.add(key);
      let edge = edges.get(key);
      if (!edge) edges.set(key, (edge = { from, to, paths: [], usual: 0, offending: 0, points: [] }));
      edge.paths.push(index);
      if (path.offending) edge.offending += path.count;
      else edge.usual += path.count;
    }
  });

  // Where two directions contradict each other the one of fewer paths runs backwards.
  const forward = acyclic([...edges.values()].sort((a, b) => b.usual + b.offending - a.usual - a.offending));
  const layers = assignLayers(nodes, forward);
  place(nodes, forward, layers, measures);

  const all = [...nodes.values()];
  const bottom = Math.max(0, ...all.map((n) => n.y), ...[...edges.values()].flatMap((e) => e.points.map((p) => p.y)));
  return {
    paths,
    nodes: all.sort((a, b) => a.layer - b.layer || a.y - b.y),
    edges: [...edges.values()],
    width: Math.max(0, ...all.map((n) => n.x)) + measures.nodeWidth / 2 + measures.margin,
    height: bottom + measures.nodeHeight / 2 + measures.margin,
    layers,
  };
}

interface Arc {
  edge: Edge;
  from: number;
  to: number;
}

/** Turns around the edges that would close a cycle; what comes first keeps its direction. */
function acyclic(edges: Edge[]): Arc[] {
  const after = new Map<number, Set<number>>();
  const reaches = (start: number, goal: number): boolean => {
    const seen = new Set([start]);
    const stack = [start];
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      if (at === goal) return true;
      for (const next of after.get(at) ?? []) if (!seen.has(next)) seen.add(next), stack.push(next);
    }
    return false;
  };
  return edges.map((edge) => {
    const [from, to] = reaches(edge.to, edge.from) ? [edge.to, edge.from] : [edge.from, edge.to];
    if (!after.has(from)) after.set(from, new Set());
    after.get(from)!.add(to);
    return { edge, from, to };
  });
}

/** Peers that only listen go to the first layer, pure origins to the last, others as far right as they may. */
function assignLayers(nodes: Map<number, Node>, arcs: Arc[]): number {
  const outgoing = new Map<number, number[]>();
  const incoming = new Map<number, number>();
  for (const { from, to } of arcs) {
    outgoing.set(from, [...(outgoing.get(from) ?? []), to]);
    incoming.set(to, (incoming.get(to) ?? 0) + 1);
  }
  const waiting = new Map(incoming);
  const order = [...nodes.keys()].filter((asn) => !incoming.has(asn));
  for (let i = 0; i < order.length; i++) {
    const from = nodes.get(order[i]!)!;
    for (const asn of outgoing.get(from.asn) ?? []) {
      const to = nodes.get(asn)!;
      to.layer = Math.max(to.layer, from.layer + 1);
      const left = waiting.get(asn)! - 1;
      waiting.set(asn, left);
      if (left === 0) order.push(asn);
    }
  }
  const last = Math.max(0, ...[...nodes.values()].map((n) => n.layer));
  for (const asn of order.reverse()) {
    const n = nodes.get(asn)!;
    const next = outgoing.get(asn);
    if (!next) n.layer = last;
    else if (incoming.has(asn)) n.layer = Math.min(...next.map((a) => nodes.get(a)!.layer)) - 1;
  }
  return nodes.size ? last + 1 : 0;
}

/** A node, or the point where an edge crosses a layer between its ends. */
interface Slot {
  node?: Node;
  before: Slot[];
  after: Slot[];
  rank: number;
  y: number;
}

function place(nodes: Map<number, Node>, arcs: Arc[], count: number, m: Measures): void {
  const layers: Slot[][] = Array.from({ length: count }, () => []);
  const slots = new Map<number, Slot>();
  for (const n of nodes.values()) {
    const slot: Slot = { node: n, before: [], after: [], rank: 0, y: 0 };
    slots.set(n.asn, slot);
    layers[n.layer]!.push(slot);
  }
  const chains = arcs.map(({ edge, from, to }) => {
    const chain = [slots.get(from)!];
    for (let layer = nodes.get(from)!.layer + 1; layer < nodes.get(to)!.layer; layer++) {
      const bend: Slot = { before: [], after: [], rank: 0, y: 0 };
      layers[layer]!.push(bend);
      chain.push(bend);
    }
    chain.push(slots.get(to)!);
    for (let i = 1; i < chain.length; i++) {
      chain[i - 1]!.after.push(chain[i]!);
      chain[i]!.before.push(chain[i - 1]!);
    }
    return { edge, chain, reversed: edge.from !== from };
  });

  order(layers);

  const gap = (a: Slot, b: Slot) => (a.node || b.node ? ((a.node ? m.nodeHeight : 4) + (b.node ? m.nodeHeight : 4)) / 2 + m.rowGap : 12);
  for (const layer of layers) {
    let y = 0;
    layer.forEach((slot, i) => (slot.y = y += i ? gap(layer[i - 1]!, slot) : 0));
  }
  for (let round = 0; round < 12; round++) {
    const ahead = round % 2 === 0;
    for (const layer of ahead ? layers : [...layers].reverse()) {
      const wanted = layer.map((slot) => {
        const near = round > 9 ? [...slot.before, ...slot.after] : ahead ? slot.before : slot.after;
        let sum = 0;
        let weight = 0;
        for (const other of near) {
          const w = stiffness(slot, other);
          sum += w * other.y;
          weight += w;
        }
        return { y: weight ? sum / weight : slot.y, weight: slot.node ? 1 : 4 };
      });
      spread(layer, wanted, gap);
    }
  }
  const top = Math.min(...layers.flatMap((layer) => layer.map((slot) => slot.y - (slot.node ? m.nodeHeight / 2 : 3))));
  const free = count > 1 ? (m.width - 2 * m.margin - count * m.nodeWidth) / (count - 1) : 0;
  const step = m.nodeWidth + Math.max(m.columnGap, Math.min(free, 2 * m.nodeWidth));
  layers.forEach((layer, i) => {
    for (const slot of layer) {
      slot.y += m.margin - top;
      if (slot.node) Object.assign(slot.node, { x: m.margin + m.nodeWidth / 2 + i * step, y: slot.y });
    }
  });
  for (const { edge, chain, reversed } of chains) {
    const first = chain[0]!.node!.layer;
    const points = chain.map((slot, i) => ({ x: m.margin + m.nodeWidth / 2 + (first + i) * step, y: slot.y }));
    edge.points = reversed ? points.reverse() : points;
  }
}

/** A bend in a long edge disturbs the eye more than a slope at its end. */
const stiffness = (a: Slot, b: Slot): number => (a.node && b.node ? 1 : a.node || b.node ? 2 : 8);

/** Orders the slots of each layer: sweeps of barycentres, then exchanges of neighbours; the best order seen wins. */
function order(layers: Slot[][]): void {
  const number = () => layers.forEach((layer) => layer.forEach((slot, i) => (slot.rank = i)));
  number();
  let best = layers.map((layer) => [...layer]);
  let fewest = crossings(layers);
  for (let round = 0; round < 24 && fewest > 0; round++) {
    const ahead = round % 2 === 0;
    for (const layer of ahead ? layers : [...layers].reverse()) {
      const centre = new Map(
        layer.map((slot) => {
          const near = ahead ? slot.before : slot.after;
          return [slot, near.length ? near.reduce((sum, other) => sum + other.rank, 0) / near.length : slot.rank];
        }),
      );
      layer.sort((a, b) => centre.get(a)! - centre.get(b)! || a.rank - b.rank);
      layer.forEach((slot, i) => (slot.rank = i));
    }
    exchange(layers);
    const now = crossings(layers);
    if (now < fewest) {
      fewest = now;
      best = layers.map((layer) => [...layer]);
    }
  }
  best.forEach((layer, i) => layers[i]!.splice(0, Infinity, ...layer));
  number();
}

function exchange(layers: Slot[][]): void {
  for (const layer of layers) {
    for (let i = 1; i < layer.length; i++) {
      const [a, b] = [layer[i - 1]!, layer[i]!];
      const cost = (p: Slot, q: Slot) => between(p.before, q.before) + between(p.after, q.after);
      if (cost(b, a) >= cost(a, b)) continue;
      [layer[i - 1], layer[i]] = [b, a];
      [a.rank, b.rank] = [b.rank, a.rank];
    }
  }
}

/** Crossings of the edges of two neighbouring slots, the first above the second. */
function between(upper: Slot[], lower: Slot[]): number {
  let n = 0;
  for (const u of upper) for (const l of lower) if (u.rank > l.rank) n++;
  return n;
}

function crossings(layers: Slot[][]): number {
  let n = 0;
  for (const layer of layers) {
    for (let i = 0; i < layer.length; i++) {
      for (let j = i + 1; j < layer.length; j++) {
        for (const a of layer[i]!.after) for (const b of layer[j]!.after) if (a.rank > b.rank) n++;
      }
    }
  }
  return n;
}

/**
 * Moves the slots of one layer as near to the wanted places as their order and distances allow, in
 * the sense of least squares: isotonic regression by pooling adjacent violators.
 */
function spread(layer: Slot[], wanted: { y: number; weight: number }[], gap: (a: Slot, b: Slot) => number): void {
  const offset: number[] = [];
  layer.forEach((slot, i) => offset.push(i ? offset[i - 1]! + gap(layer[i - 1]!, slot) : 0));
  const blocks: { sum: number; weight: number; size: number }[] = [];
  wanted.forEach(({ y, weight }, i) => {
    let block = { sum: weight * (y - offset[i]!), weight, size: 1 };
    for (let last = blocks.at(-1); last && last.sum / last.weight > block.sum / block.weight; last = blocks.at(-1)) {
      block = { sum: block.sum + last.sum, weight: block.weight + last.weight, size: block.size + last.size };
      blocks.pop();
    }
    blocks.push(block);
  });
  let i = 0;
  for (const { sum, weight, size } of blocks) for (let k = 0; k < size; k++, i++) layer[i]!.y = sum / weight + offset[i]!;
}
