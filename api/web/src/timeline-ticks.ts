const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000];

/** Round instants between start and end, at most `most` of them. */
export function ticks(start: number, end: number, most: number): number[] {
  const step = 1000 * (steps.find((s) => (end - start) / (s * 1000) <= most) ?? Math.ceil((end - start) / most / 86_400_000) * 86_400);
  const list: number[] = [];
  for (let t = Math.ceil(start / step) * step; t <= end; t += step) list.push(t);
  return list;
}
