/** What needs no browser: the format of the stream, addresses, filters, the layout of graphs. */
import { expect, test } from '@playwright/test';
import { parseASN, parsePrefix, related } from '../src/address.ts';
import { filterFrom, matches, noFilter } from '../src/filter.ts';
import { duration, instant, percent, shortTime, time } from '../src/format.ts';
import { layout, type Graph, type Measures, normalise } from '../src/graph/layout.ts';
import { routeOf } from '../src/router.ts';
import { Parser } from '../src/stream.ts';
import { ticks } from '../src/timeline-ticks.ts';
import { chance, incident, mainone, tangle, youtube } from './world.ts';

test.describe('server-sent events', () => {
  const stream = ': hello\nretry: 3000\nid: 7\n\nid: 8\nevent: opened\ndata: {"a":\ndata: 1}\n\nevent: grew\r\ndata:x\r\n\r\nid: 9\ndata: é🙂\n\n';
  const expected = [
    { id: '8', event: 'opened', data: '{"a":\n1}' },
    { id: '8', event: 'grew', data: 'x' },
    { id: '9', event: 'message', data: 'é🙂' },
  ];

  test('are the same however the bytes are cut', () => {
    for (let cut = 0; cut <= stream.length; cut++) {
      const parser = new Parser();
      expect([...parser.feed(stream.slice(0, cut)), ...parser.feed(stream.slice(cut))]).toEqual(expected);
      expect(parser.retry).toBe(3000);
    }
  });

  test('move the position without a message', () => {
    const parser = new Parser();
    expect(parser.feed('id: 41\n\n')).toEqual([]);
    expect(parser.lastId).toBe('41');
  });

  test('are not told before their end', () => {
    const parser = new Parser();
    expect(parser.feed('data: half')).toEqual([]);
    expect(parser.feed('\n')).toEqual([]);
    expect(parser.feed('\n')).toHaveLength(1);
  });
});

test.describe('prefixes', () => {
  for (const [text, length] of [['192.0.2.0/24', 24], ['0.0.0.0/0', 0], ['192.0.2.1', 32], ['2001:db8::/32', 32], ['::', 128], ['::1/128', 128], ['2001:db8:0:0:0:0:0:1', 128]] as const) {
    test(`${text} is one`, () => expect(parsePrefix(text)?.length).toBe(length));
  }
  for (const text of ['', '/', '1.2.3', '1.2.3.4.5', '256.0.0.1', '01.2.3.4', '1.2.3.4/33', '1.2.3.4/', '1.2.3.4/-1', '1.2.3.4/24/8', ':::', '1::2::3', '1:2:3', '1:2:3:4:5:6:7:8:9', 'g::', '12345::', '2001:db8::/129', 'AS64500', '<b>']) {
    test(`${JSON.stringify(text)} is none`, () => expect(parsePrefix(text)).toBeUndefined());
  }
  const pairs: [string, string, boolean][] = [
    ['208.65.152.0/22', '208.65.153.0/24', true], ['208.65.153.0/24', '208.65.152.0/22', true], ['208.65.152.0/24', '208.65.153.0/24', false],
    ['0.0.0.0/0', '203.0.113.0/24', true], ['::/0', '203.0.113.0/24', false], ['2001:db8::/32', '2001:db8:ffff::/48', true], ['2001:db8::/32', '2001:db9::/48', false],
  ];
  for (const [a, b, expected] of pairs) test(`${a} and ${b} are ${expected ? '' : 'not '}related`, () => expect(related(parsePrefix(a)!, parsePrefix(b)!)).toBe(expected));
});

test('AS numbers', () => {
  expect(['AS64500', 'as64500', ' 64500 ', '4294967295'].map(parseASN)).toEqual([64500, 64500, 64500, 4294967295]);
  expect(['', '0', 'AS', '4294967296', '-1', '1.5', 'ASN64500', '64500x', '1e3'].map(parseASN)).toEqual(Array(9).fill(undefined));
});

test.describe('filters', () => {
  const hijack = incident(youtube(0), 1);
  const leak = incident(mainone(0), 2);
  const cases: [string, string, typeof hijack, boolean | undefined][] = [
    ['nothing', '', hijack, true], ['status', 'status=open', hijack, true], ['another status', 'status=ended', hijack, false],
    ['offender', 'asn=17557', hijack, true], ['AS before the number', 'asn=AS36561', hijack, true], ['accomplice', 'asn=3491', hijack, true], ['a stranger', 'asn=1755', hijack, false],
    ['severity reached', 'min_severity=high', hijack, true], ['severity not reached', 'min_severity=critical', leak, false],
    ['kind', 'kind=subprefix_hijack', hijack, true], ['another kind', 'kind=route_leak', hijack, false],
    ['covering prefix', 'prefix=208.65.152.0/22', hijack, true], ['a part', 'prefix=208.65.153.128/25', hijack, true], ['a neighbour', 'prefix=208.65.152.0/24', hijack, false],
    ['a prefix beyond the sample: only the server knows', 'prefix=8.8.8.0/24', leak, undefined], ['two at once', 'asn=17557&status=ended', hijack, false],
  ];
  for (const [name, query, subject, expected] of cases) test(name, () => expect(matches(filterFrom(new URLSearchParams(query)), subject)).toBe(expected));
  test('rubbish in the address selects nothing', () => expect(filterFrom(new URLSearchParams('status=x&min_severity=<b>&other=1'))).toEqual(noFilter));
});

test('addresses of the page', () => {
  expect(routeOf('/')).toEqual({ page: 'incidents' });
  expect(routeOf('/incidents/inc_A')).toEqual({ page: 'incident', id: 'inc_A' });
  expect(routeOf('/prefixes/2001:db8::/32')).toEqual({ page: 'prefix', prefix: '2001:db8::/32' });
  expect(routeOf('/prefixes/192.0.2.0%2F24')).toEqual({ page: 'prefix', prefix: '192.0.2.0/24' });
  expect(routeOf('/feeds')).toEqual({ page: 'feeds' });
  for (const path of ['/incidents', '/incidents/', '/incidents/a/b', '/feeds/x', '/x', '/%']) expect(routeOf(path).page).toBe('unknown');
});

test('numbers and times', () => {
  expect([0, 59_400, 60_000, 185_000, 3_600_000, 8_040_000, 273_600_000].map(duration)).toEqual(['0 s', '59 s', '1 min', '3 min 5 s', '1 h', '2 h 14 min', '3 d 4 h']);
  expect([0, 0.004, 0.5, 0.972, 0.9963, 0.99996, 1].map(percent)).toEqual(['0 %', '<1 %', '50 %', '97 %', '99.6 %', '>99.9 %', '100 %']);
  const start = Date.parse('2008-02-24T18:47:57Z');
  expect(time(start)).toBe('2008-02-24 18:47:57');
  expect(shortTime(start, start + 3_600_000)).toBe('18:47:57');
  expect(shortTime(start, start + 86_400_000)).toBe('24 Feb 18:47');
  expect(shortTime(start, start + 400 * 86_400_000)).toBe('24 Feb 2008');
  expect([instant('0001-01-01T00:00:00Z'), instant(null), instant('soon')]).toEqual([undefined, undefined, undefined]);
});

test('ticks are round and few', () => {
  const random = chance(1);
  for (let i = 0; i < 300; i++) {
    const start = Date.parse('2020-01-01') + random() * 1e11;
    const length = 1000 + random() ** 6 * 1e11;
    const list = ticks(start, start + length, 8);
    expect(list.length).toBeLessThanOrEqual(9);
    expect(list.filter((t) => t % 1000 !== 0 || t < start || t > start + length)).toEqual([]);
  }
});

test.describe('the layout of paths', () => {
  const measures: Measures = { nodeWidth: 104, nodeHeight: 26, columnGap: 34, rowGap: 13, margin: 14, width: 1200 };

  /** What holds for every graph: no box over another, edges from node to node, every hop an edge. Returns what does not. */
  const faults = (graph: Graph): string[] => {
    const list: string[] = [];
    const claim = (holds: boolean, what: string) => void (holds || list.push(what));
    const place = new Map(graph.nodes.map((n) => [n.asn, n]));
    const half = measures.nodeHeight / 2;
    for (const a of graph.nodes) {
      claim(a.x >= measures.margin + measures.nodeWidth / 2 && a.y >= half && a.y + half <= graph.height, `${a.asn} lies outside`);
      for (const b of graph.nodes) if (a !== b && a.layer === b.layer) claim(Math.abs(a.y - b.y) >= measures.nodeHeight + measures.rowGap - 1e-6, `${a.asn} is too near to ${b.asn}`);
    }
    const edges = new Map(graph.edges.map((e) => [`${e.from}>${e.to}`, e]));
    for (const edge of graph.edges) {
      const name = `${edge.from}>${edge.to}`;
      const [from, to] = [place.get(edge.from)!, place.get(edge.to)!];
      const [first, last] = [edge.points[0]!, edge.points.at(-1)!];
      claim(first.x === from.x && first.y === from.y && last.x === to.x && last.y === to.y, `${name} does not end at its nodes`);
      claim(from.layer !== to.layer, `${name} stays in a layer`);
      for (const bend of edge.points.slice(1, -1))
        for (const n of graph.nodes) claim(Math.abs(n.x - bend.x) > 1 || Math.abs(n.y - bend.y) >= half + 2, `${name} runs into ${n.asn}`);
    }
    graph.paths.forEach((path, index) => {
      for (let i = 1; i < path.hops.length; i++) claim(!!edges.get(`${path.hops[i - 1]}>${path.hops[i]}`)?.paths.includes(index), `hop ${i} of ${path.hops} has no edge`);
    });
    return list;
  };
  const sound = (graph: Graph) => expect(faults(graph)).toEqual([]);

  test('joins what is equal and drops prepending', () => {
    expect(normalise([[1, 2, 2, 2, 3]], [[1, 2, 3], [1, 1, 2, 3], []])).toEqual([
      { hops: [1, 2, 3], offending: true, count: 2 },
      { hops: [1, 2, 3], offending: false, count: 1 },
    ]);
  });

  test('puts peers left, origins right and shares what is common', () => {
    const graph = layout([[3333, 1299, 36561], [7018, 36561]], [[3333, 12859, 6461, 3491, 17557], [7018, 3491, 17557]], measures);
    sound(graph);
    const layer = (asn: number) => graph.nodes.find((n) => n.asn === asn)!.layer;
    expect([3333, 7018].map(layer)).toEqual([0, 0]);
    expect([17557, 36561].map(layer)).toEqual([graph.layers - 1, graph.layers - 1]);
    expect(graph.nodes).toHaveLength(8);
    const last = graph.edges.find((e) => e.from === 3491 && e.to === 17557)!;
    expect(last).toMatchObject({ offending: 2, usual: 0 });
    expect(graph.nodes.filter((n) => n.peer).map((n) => n.asn).sort()).toEqual([3333, 7018]);
    expect(graph.nodes.filter((n) => n.origin).map((n) => n.asn).sort()).toEqual([17557, 36561]);
  });

  test('counts an edge that both kinds use for both', () => {
    const graph = layout([[1, 2, 3]], [[1, 2, 4], [1, 2, 4, 4]], measures);
    expect(graph.edges.find((e) => e.from === 1)).toMatchObject({ usual: 1, offending: 2 });
  });

  for (const [name, usual, offending] of [
    ['nothing', [], []], ['one network', [[1]], []], ['a peer that is the origin of another path', [[1]], [[2, 1]]],
    ['opposite directions', [[1, 2, 3, 9]], [[1, 3, 2, 9]]], ['a loop', [], [[1, 2, 3, 1, 4]]], ['two paths against each other', [[1, 2]], [[2, 1]]],
  ] as [string, number[][], number[][]][]) {
    test(`stands ${name}`, () => sound(layout(usual, offending, measures)));
  }

  test('stands the largest sample, and any other', () => {
    const wide = tangle(0);
    const graph = layout(wide.usual, wide.paths, measures);
    sound(graph);
    expect(graph.layers).toBe(8);
    const random = chance(42);
    for (let round = 0; round < 40; round++) {
      const some = () => Array.from({ length: 1 + Math.floor(random() * 20) }, () => Array.from({ length: 1 + Math.floor(random() * 8) }, () => 1 + Math.floor(random() * 30)));
      sound(layout(some(), some(), measures));
    }
  });
});
