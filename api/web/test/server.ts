/** The built pages, and an API that holds what a test puts there and fails when it is told to. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { readFile } from 'node:fs/promises';
import type { AddressInfo, Socket } from 'node:net';
import { extname, join } from 'node:path';
import type { Feed, Source, Incident, IncidentEvent, Watch } from '../src/api.ts';
import { activity, course, deliveries, feeds, incident, status, type Story, updates, sources } from './world.ts';

const dist = join(import.meta.dirname, '../dist');
const types: Record<string, string> = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.html': 'text/html; charset=utf-8' };

/** Stricter than any server of ours needs to be: what works under it works. */
export const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
  "require-trusted-types-for 'script'; trusted-types lit-html";

export class Fixture {
  incidents = new Map<string, Incident>();
  events: IncidentEvent[] = [];
  feeds: Feed[] = feeds().slice(0, 1);
  sources: Source[] = sources();
  /** undefined in a process that does not detect. */
  watches: Watch[] | undefined = [];
  startedAt = '2026-01-01T00:00:00Z';
  reasons: string[] = [];
  /** Connections are cut off without an answer, as when the process is gone. */
  dead = false;
  /** Header of each connection to the stream. */
  resumed: (string | undefined)[] = [];
  requests: string[] = [];
  /** A page of somebody else, served at /host without a policy. */
  host = '';
  address = '';
  #server: Server;
  #streams = new Set<ServerResponse>();
  #sockets = new Set<Socket>();

  constructor() {
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
  }

  async start(): Promise<void> {
    await new Promise<void>((done) => this.#server.listen(0, '127.0.0.1', done));
    this.address = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((done) => this.#server.close(done));
  }

  get streams(): number {
    return this.#streams.size;
  }

  /** Puts a story there with all its past. */
  tell(story: Story, first = this.events.length + 1): void {
    const past = course(story, first);
    this.events.push(...past);
    this.incidents.set(story.id, past.at(-1)!.incident);
  }

  /** Something happens now. */
  push(change: IncidentEvent['change'], story: Story | Incident): IncidentEvent {
    const sequence = Math.max(0, ...this.events.map((e) => e.sequence)) + 1;
    const now = 'evidence' in story && 'sequence' in story ? { ...story, sequence } : incident(story as Story, sequence);
    const event: IncidentEvent = { sequence, time: new Date().toISOString(), change, incident: now };
    this.events.push(event);
    this.incidents.set(now.id, now);
    for (const stream of this.#streams) stream.write(message(event));
    return event;
  }

  /** The connection of everybody who listens breaks. */
  cut(): void {
    for (const stream of this.#streams) stream.destroy();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.dead) {
      request.socket.destroy();
      return;
    }
    const url = new URL(request.url!, this.address);
    this.requests.push(request.url!);
    const path = decodeURIComponent(url.pathname);
    if (!path.startsWith('/api/')) return this.#page(path, response);
    const name = path.replace('/api/v1/', '');
    const json = (body: unknown, code = 200) => {
      response.writeHead(code, { 'Content-Type': code === 200 ? 'application/json' : 'application/problem+json', 'Cache-Control': 'no-store' });
      response.end(JSON.stringify(body));
    };
    const [kind, id = '', sub] = name.split('/');
    if (name === 'stream') return this.#stream(request, response);
    if (name === 'feeds') return json({ items: this.feeds });
    if (name === 'sources') return json({ items: this.sources });
    if (name === 'watches') {
      if (this.watches) return json({ items: this.watches });
      return json({ title: 'Service Unavailable', status: 503, detail: 'This process does not detect; ask the one that does.' }, 503);
    }
    if (name === 'activity') {
      const at = (name: string) => Date.parse(url.searchParams.get(name)!);
      return json(activity(at('from'), at('to'), buckets[url.searchParams.get('bucket')!]!));
    }
    if (name === 'status') {
      const open = [...this.incidents.values()].filter((i) => i.status === 'open');
      return json({ ...status(open, this.reasons.length === 0), started_at: this.startedAt, reasons: this.reasons });
    }
    if (name === 'updates') return json({ items: updates() });
    if (kind === 'prefixes') {
      const about = name.slice('prefixes/'.length);
      if (!about.includes('/')) return json({ title: 'Bad Request', status: 400, detail: 'no', errors: [{ location: 'path.prefix', message: `"${about}" is not a prefix` }] }, 400);
      return json({
        prefix: about, covering: ['208.65.152.0/22'], full_feed_peers: 120, incidents: [...this.incidents.values()].filter((i) => i.prefixes?.some((p) => p.prefix === about)),
        origins: [{ asn: 17557, since: new Date(Date.now() - 3_600_000).toISOString(), peers: 93, peer_asns: 80, rpki: 'not_found', paths: [[3333, 12859, 6461, 3491, 17557]] }],
      });
    }
    if (kind === 'incidents' && id) {
      const found = this.incidents.get(id);
      if (!found) return json({ title: 'Not Found', status: 404, detail: `There is no incident "${id}".` }, 404);
      if (sub === 'events') return json({ items: this.events.filter((e) => e.incident.id === id && e.sequence > Number(url.searchParams.get('after'))) });
      if (sub === 'deliveries') return json({ items: id.startsWith('inc_YOUTUBE') ? deliveries(id, Date.parse(found.started_at)) : [] });
      return json(found);
    }
    if (kind === 'incidents') {
      const wanted = (name: string) => url.searchParams.get(name);
      const selected = (i: Incident) =>
        (!wanted('status') || i.status === wanted('status')) &&
        (!wanted('kind') || i.kind === wanted('kind')) &&
        (!wanted('min_severity') || order.indexOf(i.severity) >= order.indexOf(wanted('min_severity')!)) &&
        (!wanted('asn') || [i.offenders, i.accomplices, i.victims].flat().includes(Number(wanted('asn')))) &&
        (!wanted('prefix') || i.prefixes!.some((p) => p.prefix === wanted('prefix') || p.covering === wanted('prefix')));
      const before = Number(url.searchParams.get('cursor') ?? Infinity);
      const limit = Number(url.searchParams.get('limit') ?? 50);
      const all = [...this.incidents.values()].filter((i) => i.sequence < before && selected(i)).sort((a, b) => b.sequence - a.sequence);
      return json({ items: all.slice(0, limit), ...(all.length > limit ? { next: String(all[limit - 1]!.sequence) } : {}) });
    }
    json({ title: 'Not Found', status: 404, detail: 'There is nothing here.' }, 404);
  }

  #stream(request: IncomingMessage, response: ServerResponse): void {
    const last = request.headers['last-event-id'] as string | undefined;
    this.resumed.push(last);
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    const position = last === undefined ? Math.max(0, ...this.events.map((e) => e.sequence)) : Number(last);
    response.write(`retry: 200\nid: ${position}\n\n`);
    for (const event of this.events) if (event.sequence > position) response.write(message(event));
    this.#streams.add(response);
    response.on('close', () => this.#streams.delete(response));
  }

  async #page(path: string, response: ServerResponse): Promise<void> {
    const name = path === '/embed/incidents' ? 'embed.html' : path.startsWith('/assets/') ? path : 'index.html';
    if (path === '/host') {
      response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' }).end(this.host);
      return;
    }
    try {
      const body = await readFile(join(dist, name));
      response.writeHead(200, { 'Content-Type': types[extname(name)] ?? 'text/html', 'Content-Security-Policy': policy });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  }
}

const buckets: Record<string, number> = { '5m': 300_000, '15m': 900_000, '2h': 7_200_000, '8h': 28_800_000 };
const order = ['info', 'low', 'medium', 'high', 'critical'];

const message = (event: IncidentEvent) => `id: ${event.sequence}\nevent: ${event.change}\ndata: ${JSON.stringify(event)}\n\n`;
