/** The JSON of the HTTP interface (/api/openapi.json), and the one way to ask for it. */

export const severities = ['info', 'low', 'medium', 'high', 'critical'] as const;
export type Severity = (typeof severities)[number];

export interface Prefix {
  prefix: string;
  covering?: string;
  expected_origins: number[] | null;
  observed_origins: number[] | null;
  rpki: string;
  irr: string;
}

export interface Evidence {
  rule: string;
  weight: number;
  detail: string;
  source: string;
  source_version: string;
}

export interface Visibility {
  peers: number;
  peer_asns: number;
  full_feed_peers: number;
  collectors: number;
}

export interface Incident {
  id: string;
  kind: string;
  rfc7908_type: number | null;
  status: 'open' | 'ended';
  confidence: number;
  severity: Severity;
  peak_severity?: Severity;
  title: string;
  explanation: string;
  started_at: string;
  detected_at: string;
  updated_at: string;
  ended_at: string | null;
  offenders: number[] | null;
  accomplices: number[] | null;
  victims: number[] | null;
  prefixes: Prefix[] | null;
  prefix_count: number;
  visibility: Visibility;
  peak_visibility?: Visibility;
  paths: number[][] | null;
  usual_paths: number[][] | null;
  evidence: Evidence[] | null;
  watches?: string[] | null;
  muted?: { watch: string; reason: string; until: string };
  degraded: string[] | null;
  sequence: number;
}

export type Change = 'opened' | 'grew' | 'receded' | 'severity_changed' | 'ended' | 'reopened' | 'unmuted';

export interface IncidentEvent {
  sequence: number;
  time: string;
  change: Change;
  incident: Incident;
}

export interface Delivery {
  key: string;
  incident_id: string;
  sequence: number;
  receiver: string;
  state: 'pending' | 'delivered' | 'expired';
  attempts: number;
  created_at: string;
  updated_at: string;
  next_attempt?: string;
  expires_at: string;
  last_error?: string;
  receipt?: string;
}

export interface Feed {
  name: string;
  type: string;
  address?: string;
  state: 'connecting' | 'connected' | 'stalled' | 'lagging' | 'done';
  since: string;
  last_message?: string;
  last_event_time?: string;
  lag_seconds: number;
  peers: number;
  messages: number;
  updates: number;
  malformed?: Record<string, number>;
  dropped: number;
  reconnects: number;
  last_error?: string;
  next_attempt?: string;
}

export interface Source {
  name: string;
  location: string;
  state: 'missing' | 'fresh' | 'stale';
  entries: number;
  serial?: string;
  as_of?: string;
  age_seconds: number;
  checked?: string;
  last_error?: string;
  next_attempt?: string;
}

export interface ServiceStatus {
  version: string;
  started_at: string;
  mode: 'live' | 'demo';
  ready: boolean;
  reasons: string[] | null;
  event_time?: string | null;
  store?: unknown;
  counts: { open_incidents: number; by_severity: Partial<Record<Severity, number>> | null };
}

export interface OriginState {
  asn: number;
  since: string;
  peers: number;
  peer_asns: number;
  rpki: string;
  paths: number[][] | null;
}

export interface Route {
  time: string;
  type: 'announce' | 'withdraw' | 'rib' | 'peer_up' | 'peer_down';
  collector: string;
  peer_asn: number;
  peer_ip: string;
  prefix?: string;
  as_path?: string;
  origin_asn?: number;
  next_hop?: string;
}

export interface PrefixState {
  prefix: string;
  covering: string[] | null;
  origins: OriginState[] | null;
  full_feed_peers: number;
  incidents?: Incident[] | null;
}

interface Count {
  announcements: number;
  withdrawals: number;
  rib: number;
}

export interface Bucket extends Count {
  time: string;
}

export interface Activity {
  from: string;
  to: string;
  bucket_seconds: number;
  series: (Count & { origin_asn?: number; buckets: Bucket[] | null })[] | null;
}

/** A prefix with an origin that its watch does not name. */
export interface FoundOrigin {
  prefix: string;
  origin: number;
  peers: number;
}

export interface Watch {
  name: string;
  importance: 'low' | 'normal' | 'high';
  prefixes: string[] | null;
  asns: number[] | null;
  as_sets: string[] | null;
  members: number;
  origins: number[] | null;
  origin_count: number;
  neighbours: number[] | null;
  planned: { until: string; reason: string; origins: number[] | null; upstreams: number[] | null; prefixes: string[] | null }[] | null;
  mutes: { until: string; reason: string; kinds: string[] | null; prefixes: string[] | null; asns: number[] | null }[] | null;
  found: {
    announced: number;
    unknown_origins: FoundOrigin[] | null;
    unknown_prefixes: FoundOrigin[] | null;
    unknown_neighbours: { asn: number; neighbour: number; routes: number }[] | null;
  };
  incidents: string[] | null;
}

export interface List<T> {
  items: T[] | null;
  next?: string;
}

/** What the server said was wrong (RFC 9457), or that it could not be reached: status is then 0. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = 'Problem';
  }

  static async of(response: Response): Promise<Problem> {
    let text = `The server answered ${response.status} ${response.statusText}`.trim();
    try {
      const body = (await response.json()) as { detail?: unknown; title?: unknown; errors?: { location?: string; message?: string }[] };
      const first = body.errors?.[0];
      if (first?.message) text = `${first.location ? first.location.replace(/^(query|path)\./, '') + ': ' : ''}${first.message}`;
      else if (typeof body.detail === 'string') text = body.detail;
      else if (typeof body.title === 'string') text = body.title;
    } catch {
      // Not a problem document; the status line has to do.
    }
    return new Problem(response.status, text);
  }
}

/** Milliseconds to add to this computer's clock to get the server's; corrected by every answer. */
let skew = 0;

/** The server's time in milliseconds, so that ages are right on a computer whose clock is wrong. */
export const now = (): number => Date.now() + skew;

export function learnClock(response: Response): void {
  const served = Date.parse(response.headers.get('Date') ?? '');
  // The header has whole seconds and travel time in it: a small difference says nothing.
  const difference = served - Date.now();
  if (!Number.isNaN(served)) skew = Math.abs(difference) > 5000 ? difference : 0;
}

const timeout = 30_000;

/** Asks for path below /api/v1/; query values that are empty are left out. */
export async function get<T>(path: string, query: Record<string, string | number | undefined> = {}, signal?: AbortSignal): Promise<T> {
  const limit = AbortSignal.timeout(timeout);
  let response: Response;
  try {
    response = await fetch(`/api/v1/${path}${encodeQuery(query)}`, {
      headers: { Accept: 'application/json' },
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new Problem(0, limit.aborted ? `The server did not answer within ${timeout / 1000} seconds.` : 'The server cannot be reached.');
  }
  learnClock(response);
  if (!response.ok) throw await Problem.of(response);
  return (await response.json()) as T;
}

export function encodeQuery(query: Record<string, string | number | undefined>): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== '') parameters.set(name, String(value));
  const text = parameters.toString();
  return text && `?${text}`;
}

/** A slash in a path parameter stays one: the server takes the rest of the path as the prefix. */
export const prefixPath = (prefix: string): string => prefix.split('/').map(encodeURIComponent).join('/');

export const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));
export const isAbort = (error: unknown): boolean => error instanceof DOMException && error.name === 'AbortError';
