import { type Feed, get, type Incident, type IncidentEvent, isAbort, type List, message, now, type ServiceStatus, type Source } from './api.ts';
import { type Filter, matches, noFilter } from './filter.ts';
import { type Connection, EventStream } from './stream.ts';

/** What one may subscribe to: `changed` is any new fact to draw, the others say which. */
interface LiveEvents {
  changed: undefined;
  incident: IncidentEvent;
  /** The stream is open again after a loss: what is shown may have missed something. */
  resumed: { restarted: boolean };
}

type Listener<T> = (value: T) => void;

/** The page's one connection to the server: the stream of events, and the health asked for now and then. */
export class Live {
  connection: Connection = { state: 'connecting' };
  /** When the stream was lost, in milliseconds; undefined while it is open and before it first was. */
  lostAt: number | undefined;
  status: ServiceStatus | undefined;
  feeds: Feed[] | undefined;
  /** What routes are compared with. */
  sources: Source[] | undefined;
  /** Messages a second of each feed, by name, once two counts are known. */
  rates = new Map<string, number>();
  /** Why the last question about health had no answer. */
  unreachable: string | undefined;

  #listeners: { [K in keyof LiveEvents]: Set<Listener<LiveEvents[K]>> } = { changed: new Set(), incident: new Set(), resumed: new Set() };
  #samples = new Map<string, { messages: number; at: number }>();
  #stream = new EventStream({
    url: '/api/v1/stream',
    message: (m) => this.#message(m.data),
    connection: (connection, resumed) => this.#connection(connection, resumed),
  });
  #poll: ReturnType<typeof setTimeout> | undefined;
  #soon: ReturnType<typeof setTimeout> | undefined;
  /** Milliseconds between two questions about health. */
  interval = 10_000;

  start(): void {
    this.#stream.start();
    void this.refresh();
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden) void this.refresh();
    });
  }

  on<K extends keyof LiveEvents>(what: K, listener: Listener<LiveEvents[K]>): () => void {
    this.#listeners[what].add(listener);
    return () => this.#listeners[what].delete(listener);
  }

  retry(): void {
    this.#stream.retry();
    void this.refresh();
  }

  /** Asks for the health now, and from then on every `interval` while somebody can see the page. */
  async refresh(): Promise<void> {
    clearTimeout(this.#poll);
    this.#poll = undefined;
    try {
      const [status, feeds, sources] = await Promise.all([get<ServiceStatus>('status'), get<List<Feed>>('feeds'), get<List<Source>>('sources')]);
      this.status = status;
      this.sources = sources.items ?? [];
      this.#learnFeeds(feeds.items ?? []);
      this.unreachable = undefined;
    } catch (error) {
      this.unreachable = message(error);
    }
    this.#emit('changed', undefined);
    clearTimeout(this.#poll);
    if (!document.hidden) this.#poll = setTimeout(() => void this.refresh(), this.interval);
  }

  #emit<K extends keyof LiveEvents>(what: K, value: LiveEvents[K]): void {
    for (const listener of this.#listeners[what]) listener(value);
  }

  #learnFeeds(feeds: Feed[]): void {
    const at = performance.now();
    for (const feed of feeds) {
      const before = this.#samples.get(feed.name);
      if (before && at - before.at < 1000) continue; // too short to be a rate
      if (before && feed.messages >= before.messages) this.rates.set(feed.name, ((feed.messages - before.messages) * 1000) / (at - before.at));
      this.#samples.set(feed.name, { messages: feed.messages, at });
    }
    this.feeds = feeds;
  }

  #message(data: string): void {
    let event: IncidentEvent;
    try {
      event = JSON.parse(data) as IncidentEvent;
      if (typeof event.incident?.id !== 'string') return;
    } catch {
      return; // A message that is not an event is not ours to judge.
    }
    this.#emit('incident', event);
    // The counts follow; a burst of events asks for them once.
    this.#soon ??= setTimeout(() => {
      this.#soon = undefined;
      if (!document.hidden) void this.refresh();
    }, 400);
  }

  #connection(connection: Connection, resumed: boolean): void {
    this.connection = connection;
    if (connection.state === 'waiting') this.lostAt ??= Date.now();
    if (connection.state === 'open') {
      this.lostAt = undefined;
      if (resumed) void this.#resume();
    }
    this.#emit('changed', undefined);
  }

  async #resume(): Promise<void> {
    const before = this.status?.started_at;
    await this.refresh();
    // The store may be another one: a demo begins with an empty history.
    const restarted = before !== undefined && this.status?.started_at !== before;
    this.#emit('resumed', { restarted });
  }
}

export const live = new Live();

/** The time of the routing data: the server's clock, or the feed's own where a recording is played back. */
export function eventNow(): number {
  const seen = Date.parse(live.status?.event_time ?? '');
  return seen > 0 && now() - seen > 86_400_000 ? seen : now();
}

export interface Row {
  incident: Incident;
  /** It arrived, or came back, while the page was open. */
  fresh: boolean;
  /** It no longer fits the filter, and leaves a little later: a row must not vanish under the hand. */
  leaving: boolean;
}

const lingering = 60_000;
const capacity = 500;

/** The list of incidents under one filter, kept current by the stream. */
export class IncidentList {
  rows: Row[] = [];
  loaded = false;
  loading = false;
  error: string | undefined;
  next = '';
  /** Rows at the far end were let go to bound memory; only a new load brings them back. */
  truncated = false;
  filter: Filter = { ...noFilter };

  #abort: AbortController | undefined;
  #refresh: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly pageSize: number,
    private readonly changed: () => void,
    private readonly arrived: (incident: Incident) => void = () => {},
  ) {
    live.on('incident', (event) => this.#apply(event));
    live.on('resumed', ({ restarted }) => void (restarted ? this.load(this.filter) : this.#merge()));
  }

  /** Starts over with a filter. What is shown stays until the answer is there. */
  async load(filter: Filter): Promise<void> {
    this.filter = { ...filter };
    const page = await this.#ask('');
    if (!page) return;
    this.rows = (page.items ?? []).map((incident) => ({ incident, fresh: false, leaving: false }));
    this.next = page.next ?? '';
    this.loaded = true;
    this.truncated = false;
    this.changed();
  }

  async more(): Promise<void> {
    if (this.truncated) return this.load(this.filter);
    const page = await this.#ask(this.next);
    if (!page) return;
    const known = new Set(this.rows.map((row) => row.incident.id));
    for (const incident of page.items ?? []) if (!known.has(incident.id)) this.rows.push({ incident, fresh: false, leaving: false });
    this.next = page.next ?? '';
    this.changed();
  }

  /** Brings in what happened while the stream was closed, without disturbing what is there. */
  async #merge(): Promise<void> {
    const page = await this.#ask('');
    if (!page) return;
    if (!this.loaded) this.next = page.next ?? '';
    const missed: Row[] = [];
    for (const incident of page.items ?? []) {
      const row = this.rows.find((r) => r.incident.id === incident.id);
      if (!row) missed.push({ incident, fresh: this.loaded, leaving: false });
      else if (incident.sequence >= row.incident.sequence) row.incident = incident;
    }
    this.loaded = true;
    this.rows.unshift(...missed);
    for (const row of missed) this.arrived(row.incident);
    this.#bound();
    this.changed();
  }

  async #ask(cursor: string): Promise<List<Incident> | undefined> {
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    this.loading = true;
    this.changed();
    try {
      const page = await get<List<Incident>>('incidents', { ...this.filter, limit: this.pageSize, cursor }, abort.signal);
      if (abort.signal.aborted) return undefined; // a newer question has replaced this one
      this.error = undefined;
      return page;
    } catch (error) {
      if (!isAbort(error)) this.error = message(error);
      return undefined;
    } finally {
      if (this.#abort === abort) {
        this.loading = false;
        this.changed();
      }
    }
  }

  #apply({ incident, change }: IncidentEvent): void {
    const row = this.rows.find((r) => r.incident.id === incident.id);
    const fits = matches(this.filter, incident);
    if (row) {
      if (incident.sequence <= row.incident.sequence) return;
      row.incident = incident;
      if (change === 'reopened') row.fresh = true;
      row.leaving = fits === false;
      if (row.leaving) setTimeout(() => this.#remove(row), lingering);
    } else if (fits) {
      const added = { incident, fresh: true, leaving: false };
      this.rows.unshift(added);
      this.#bound();
      this.arrived(incident);
    } else if (fits === undefined) {
      this.#refresh ??= setTimeout(() => {
        this.#refresh = undefined;
        void this.#merge();
      }, 1000);
    }
    this.changed();
  }

  #remove(row: Row): void {
    if (!row.leaving) return; // it fits again
    this.rows = this.rows.filter((r) => r !== row);
    this.changed();
  }

  #bound(): void {
    if (this.rows.length <= capacity) return;
    this.rows.length = capacity;
    this.truncated = true;
  }
}
