/**
 * A small invented Internet around real facts: incidents that are public knowledge, with paths made
 * up from a seed so that a picture has something to show.
 */
import type { Activity, Bucket, Change, Delivery, Evidence, Feed, Incident, IncidentEvent, Prefix, Route, ServiceStatus, Severity, Source, Watch } from '../src/api.ts';

/** A repeatable source of chance (mulberry32). */
export function chance(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const listeners = [3333, 7018, 3257, 1103, 286, 3741, 7660, 8492, 20912, 37100, 24482, 57866, 49788, 31742, 2152, 852, 3130, 53767, 19151, 11686, 13030, 6762, 2497, 1221];
const transits = [174, 3356, 1299, 2914, 6939, 6453, 701, 3549];

const iso = (ms: number) => new Date(ms).toISOString().replace(/\.000Z$/, 'Z');

/** Paths from n listeners over one or two transit networks to a tail. */
export function paths(random: () => number, n: number, tail: number[]): number[][] {
  const via = (not: number[]) => {
    const free = transits.filter((t) => !not.includes(t));
    return free[Math.floor(random() * free.length)]!;
  };
  return listeners.slice(0, n).map((listener) => {
    const near = via(tail);
    const middle = random() < 0.45 ? [near, via([near, ...tail])] : [near];
    return [listener, ...middle, ...tail];
  });
}

export interface Story {
  id: string;
  kind: string;
  severity: Severity;
  title: string;
  explanation: string;
  start: number;
  lasts?: number;
  offenders: number[];
  accomplices?: number[];
  victims?: number[];
  prefixes: Prefix[];
  prefixCount?: number;
  leak?: number;
  paths: number[][];
  usual: number[][];
  evidence: Evidence[];
  peers: number;
  degraded?: string[];
}

export const fullFeed = 120;

export function incident(story: Story, sequence: number): Incident {
  const ended = story.lasts === undefined ? null : iso(story.start + story.lasts);
  const sum = story.evidence.reduce((total, e) => total + e.weight, 0);
  return {
    id: story.id,
    kind: story.kind,
    rfc7908_type: story.leak ?? null,
    status: ended ? 'ended' : 'open',
    confidence: 1 / (1 + Math.exp(-sum)),
    severity: story.severity,
    title: story.title,
    explanation: story.explanation,
    started_at: iso(story.start),
    detected_at: iso(story.start + 6000),
    updated_at: ended ?? iso(story.start + 60_000),
    ended_at: ended,
    offenders: story.offenders,
    accomplices: story.accomplices ?? [],
    victims: story.victims ?? [],
    prefixes: story.prefixes,
    prefix_count: story.prefixCount ?? story.prefixes.length,
    visibility: { peers: story.peers, peer_asns: Math.round(story.peers * 0.86), full_feed_peers: fullFeed, collectors: Math.min(12, 1 + Math.round(story.peers / 8)) },
    peak_visibility: { peers: story.peers, peer_asns: Math.round(story.peers * 0.86), full_feed_peers: fullFeed, collectors: Math.min(12, 1 + Math.round(story.peers / 8)) },
    paths: story.paths,
    usual_paths: story.usual,
    evidence: story.evidence,
    degraded: story.degraded ?? [],
    sequence,
  };
}

export function prefix(name: string, expected: number[], observed: number[], more: Partial<Prefix> = {}): Prefix {
  return { prefix: name, expected_origins: expected, observed_origins: observed, rpki: 'not_found', irr: 'not_found', ...more };
}

/** Pakistan Telecom and YouTube, 24 February 2008, moved to the time given. */
export function youtube(start: number): Story {
  const random = chance(2008);
  return {
    id: 'inc_YOUTUBE20080224', kind: 'subprefix_hijack', severity: 'critical',
    title: 'AS17557 announces 208.65.153.0/24, part of AS36561’s 208.65.152.0/22',
    explanation:
      'AS17557 began to announce 208.65.153.0/24, a part of 208.65.152.0/22, which AS36561 has announced without a break for as long as this history goes. ' +
      'AS17557 has never originated anything in it, and AS3491 passed the route on. 93 of 120 peers with a full table prefer it. ' +
      'Against it speaks only that the prefix has no ROA, so the origin is not proven wrong by RPKI.',
    start, offenders: [17557], accomplices: [3491], victims: [36561],
    prefixes: [prefix('208.65.153.0/24', [36561], [17557], { covering: '208.65.152.0/22' })],
    paths: paths(random, 14, [3491, 17557]).concat([[3333, 12859, 6461, 3491, 17557]]),
    usual: paths(random, 12, [36561]).map((p, i) => (i % 3 ? p : [...p.slice(0, -1), 3549, 36561])),
    evidence: [
      { rule: 'prefix.more_specific_new', weight: 2.4, detail: '208.65.153.0/24 was never announced before; 208.65.152.0/22 covers it', source: 'history', source_version: '30 days' },
      { rule: 'origin.never_seen', weight: 2.1, detail: 'AS17557 never originated a part of 208.65.152.0/22', source: 'history', source_version: '30 days' },
      { rule: 'peers.many', weight: 1.3, detail: '80 independent networks see it', source: 'vantage points', source_version: '' },
      { rule: 'topology.unrelated', weight: 0.9, detail: 'AS17557 and AS36561 have no relationship and no common organisation', source: 'AS relationships', source_version: '2008-02' },
      { rule: 'rpki.not_found', weight: -0.4, detail: 'no ROA covers the prefix', source: 'RPKI', source_version: 'serial 0' },
      { rule: 'origin.long_lived_upstream', weight: -0.7, detail: 'AS3491 is the usual upstream of AS17557', source: 'history', source_version: '30 days' },
    ],
    peers: 93,
  };
}

/** MainOne and Google, 12 November 2018. */
export function mainone(start: number): Story {
  const random = chance(2018);
  const samples = Array.from({ length: 100 }, (_, i) => prefix(`216.58.${i + 100}.0/24`, [15169], [15169], { rpki: 'valid', irr: 'registered' }));
  return {
    id: 'inc_MAINONE20181112', kind: 'route_leak', severity: 'high', leak: 4,
    title: 'AS37282 leaks 212 prefixes of AS15169 to AS4809',
    explanation: 'AS37282 learned these routes from its peer AS15169 and passed them on to its provider AS4809: a valley in the path.',
    start, lasts: 74 * 60_000, offenders: [37282], accomplices: [4809], victims: [15169],
    prefixes: samples, prefixCount: 212,
    paths: paths(random, 11, [20485, 4809, 37282, 15169]),
    usual: paths(random, 11, [15169]),
    evidence: [
      { rule: 'path.valley', weight: 3.1, detail: 'AS4809 – AS37282 – AS15169: provider, customer, peer', source: 'AS relationships', source_version: '2018-11' },
      { rule: 'origin.rpki_valid', weight: -0.6, detail: 'the origin AS15169 is RPKI Valid', source: 'RPKI', source_version: 'serial 4711' },
    ],
    peers: 58,
  };
}

/** A prepend count typed as an AS number: nobody's attack. */
export function prepend(start: number): Story {
  const random = chance(133711);
  return {
    id: 'inc_PREPEND201804', kind: 'misconfiguration_prepend', severity: 'low',
    title: 'AS133711 seems to have typed a prepend count: AS2 appears as the origin of 103.79.240.0/24',
    explanation: 'The path ends in AS133711 AS2, and AS2 is far too small a number to be new there. AS133711 announces the same prefix without it.',
    start, lasts: 9 * 60_000, offenders: [133711], victims: [2],
    prefixes: [prefix('103.79.240.0/24', [133711], [2], { rpki: 'invalid', irr: 'contradicted' })],
    paths: paths(random, 6, [133711, 2]), usual: paths(random, 6, [133711]),
    evidence: [{ rule: 'origin.prepend_count', weight: 1.9, detail: '2 is a likely prepend count', source: 'path', source_version: '' }],
    peers: 31,
  };
}

/** Twenty paths of eight hops each way, nearly all different: the worst picture the contract allows. */
export function tangle(start: number): Story {
  const random = chance(8);
  const wide = (tail: number[]) =>
    Array.from({ length: 20 }, (_, i) => [
      listeners[i]!, ...Array.from({ length: 7 - tail.length }, (_, layer) => 64496 + layer * 5 + Math.floor(random() * 5)), ...tail,
    ]);
  return {
    id: 'inc_TANGLE', kind: 'origin_hijack', severity: 'medium', title: 'AS4200000001 announces 198.51.100.0/24 of AS4200000002',
    explanation: 'Two origins of one prefix.', start, offenders: [4200000001], accomplices: [64530], victims: [4200000002],
    prefixes: [prefix('198.51.100.0/24', [4200000002], [4200000001], { rpki: 'invalid' })],
    paths: wide([64530, 4200000001]), usual: wide([4200000002]), evidence: [], peers: 44,
    degraded: ['rrc00 lags by 95 s, so routes it has already withdrawn may still count'],
  };
}

/** What an attacker would write into every text that reaches the page. */
export const hostile = `<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>"'\`\${pwned}\u202Eevil`;

export function attack(start: number): Story {
  return {
    id: 'inc_XSS', kind: 'path_policy', severity: 'info', title: hostile, explanation: hostile, start, offenders: [64511],
    prefixes: [prefix('203.0.113.0/24', [64510], [64511], { rpki: hostile, irr: hostile })],
    paths: [[64500, 64511]], usual: [[64500, 64510]],
    evidence: [{ rule: hostile, weight: -1, detail: hostile, source: hostile, source_version: hostile }],
    peers: 3, degraded: [hostile],
  };
}

/** An older, ended incident, so that there are pages. */
export function older(n: number, start: number): Story {
  const asn = 64496 + (n % 16);
  return {
    id: `inc_OLD${String(n).padStart(4, '0')}`, kind: ['origin_hijack', 'rpki_invalid', 'misconfiguration_typo_asn', 'bogon_asn'][n % 4]!,
    severity: (['info', 'low', 'medium', 'high'] as const)[n % 4]!,
    title: `AS${asn} announces 198.18.${n % 256}.0/24 of AS65551`, explanation: 'An older incident.', start, lasts: 600_000 + n * 7000,
    offenders: [asn], victims: [65551], prefixes: [prefix(`198.18.${n % 256}.0/24`, [65551], [asn])],
    paths: [[3333, 174, asn]], usual: [[3333, 1299, 65551]], evidence: [{ rule: 'origin.never_seen', weight: 1.5, detail: '', source: 'history', source_version: '' }], peers: 5 + (n % 90),
  };
}

/** How a story came about: opened small, grew in steps, and ended if it did. */
export function course(story: Story, first: number): IncidentEvent[] {
  const now = incident(story, first);
  const steps: { change: Change; share: number; at: number }[] = [
    { change: 'opened', share: 0.12, at: 6 }, { change: 'grew', share: 0.45, at: 22 }, { change: 'severity_changed', share: 0.7, at: 41 },
    { change: 'grew', share: 0.9, at: 75 }, { change: 'grew', share: 1, at: 130 },
  ];
  const events = steps.map(({ change, share, at }, i): IncidentEvent => ({
    sequence: first + i, time: iso(story.start + at * 1000), change,
    incident: {
      ...now, status: 'open', ended_at: null, sequence: first + i, severity: i < 2 && story.severity !== 'info' ? 'low' : story.severity,
      prefix_count: Math.max(1, Math.round(now.prefix_count * share)), visibility: { ...now.visibility, peers: Math.round(now.visibility.peers * share) },
    },
  }));
  if (story.lasts !== undefined) {
    events.push(
      { sequence: first + 5, time: iso(story.start + story.lasts * 0.9), change: 'receded', incident: { ...now, status: 'open', ended_at: null, sequence: first + 5, visibility: { ...now.visibility, peers: Math.round(now.visibility.peers * 0.3) } } },
      { sequence: first + 6, time: iso(story.start + story.lasts), change: 'ended', incident: { ...now, sequence: first + 6 } },
    );
  }
  return events;
}

export function deliveries(id: string, at: number): Delivery[] {
  const base = { incident_id: id, created_at: iso(at), updated_at: iso(at + 1200), expires_at: iso(at + 86_400_000) };
  return [
    { ...base, key: 'a', sequence: 901, receiver: 'noc-webhook', state: 'delivered', attempts: 1, receipt: '202 Accepted {"id":"evt_91"}' },
    { ...base, key: 'b', sequence: 903, receiver: 'noc-webhook', state: 'pending', attempts: 3, last_error: '500 Internal Server Error', next_attempt: iso(Date.now() + 40_000) },
    { ...base, key: 'c', sequence: 901, receiver: 'old-pager', state: 'expired', attempts: 12, last_error: '410 Gone: this endpoint was removed' },
  ];
}

export function feeds(): Feed[] {
  const now = Date.now();
  return [
    {
      name: 'ris-live', type: 'ris-live', address: 'wss://ris-live.ripe.net/v1/ws/', state: 'connected', since: iso(now - 4_000_000), last_message: iso(now - 300), last_event_time: iso(now - 1400),
      lag_seconds: 1.1, peers: 1204, messages: 8_114_902, updates: 9_440_118, malformed: { 'bad AS_PATH length': 12, 'unknown message type': 3 }, dropped: 0, reconnects: 2,
    },
    {
      name: 'lab', type: 'ris-live', address: 'ws://[::1]:9000/', state: 'connecting', since: iso(now - 95_000), lag_seconds: 0, peers: 0, messages: 0, updates: 0, dropped: 0, reconnects: 7,
      last_error: 'dial tcp [::1]:9000: connect: connection refused', next_attempt: iso(now + 12_000),
    },
  ];
}

export function sources(): Source[] {
  const now = Date.now();
  return [
    { name: 'vrps', location: 'https://rpki.example/export.json', state: 'fresh', entries: 712_345, serial: '"5f-6a"', as_of: iso(now - 540_000), age_seconds: 540, checked: iso(now - 60_000), next_attempt: iso(now + 540_000) },
    { name: 'as_org', location: '/etc/routevigil/as2org.txt.gz', state: 'stale', entries: 98_765, as_of: iso(now - 40 * 86_400_000), age_seconds: 40 * 86_400, checked: iso(now - 4 * 86_400_000), last_error: 'line 17: no format line stands before it', next_attempt: iso(now + 30_000) },
  ];
}

export function status(open: Incident[], healthy: boolean): ServiceStatus {
  const by: Partial<Record<Severity, number>> = {};
  for (const i of open) by[i.severity] = (by[i.severity] ?? 0) + 1;
  return {
    version: 'v0.1.0', started_at: '2026-01-01T00:00:00Z', mode: 'demo', ready: healthy, reasons: [], event_time: iso(Date.now() - 1500),
    store: {}, counts: { open_incidents: open.length, by_severity: by },
  };
}

export function updates(): Route[] {
  const now = Date.now();
  return Array.from({ length: 60 }, (_, i): Route => ({
    time: iso(now - i * 61_000), type: i % 7 === 3 ? 'withdraw' : 'announce', collector: 'rrc00', peer_asn: listeners[i % listeners.length]!, peer_ip: '192.0.2.1',
    prefix: '208.65.153.0/24', ...(i % 7 === 3 ? {} : { as_path: `${listeners[i % listeners.length]} 174 3491 17557`, origin_asn: 17557 }),
  }));
}

/** What is counted between two instants: more by day than by night, and one withdrawal for every seven announcements. */
export function activity(from: number, to: number, bucket: number): Activity {
  const buckets: Bucket[] = [];
  for (let t = from; t < to; t += bucket) {
    const announcements = Math.round(30 + 25 * Math.sin((t / 86_400_000) * 2 * Math.PI));
    if (announcements) buckets.push({ time: iso(t), announcements, withdrawals: Math.floor(announcements / 7), rib: 0 });
  }
  const sum = (of: (b: Bucket) => number) => buckets.reduce((n, b) => n + of(b), 0);
  return { from: iso(from), to: iso(to), bucket_seconds: bucket / 1000, series: [{ announcements: sum((b) => b.announcements), withdrawals: sum((b) => b.withdrawals), rib: 0, buckets }] };
}

export function watches(): Watch[] {
  const none = { prefixes: [], asns: [], as_sets: [], members: 0, origins: [], origin_count: 0, neighbours: [], planned: [], mutes: [], incidents: [] };
  return [
    {
      ...none, name: 'video', importance: 'high', prefixes: ['208.65.152.0/22'], asns: [36561], origins: [36561], origin_count: 1, neighbours: [3549, 174], incidents: ['inc_YOUTUBE20080224'],
      planned: [{ until: iso(Date.now() + 7_200_000), reason: 'scrubbing test', origins: [64500], upstreams: [], prefixes: ['208.65.152.0/24'] }],
      mutes: [{ until: iso(Date.now() + 3_600_000), reason: 'new transit', kinds: ['new_neighbour'], prefixes: [], asns: [701] }],
      found: {
        announced: 2, unknown_origins: [{ prefix: '208.65.153.0/24', origin: 17557, peers: 93 }], unknown_prefixes: [],
        unknown_neighbours: [{ asn: 36561, neighbour: 701, routes: 12 }],
      },
    },
    { ...none, name: hostile, importance: 'normal', as_sets: ['AS-EXAMPLE'], members: 41, found: { announced: 0, unknown_origins: [], unknown_prefixes: [], unknown_neighbours: [] } },
  ];
}
