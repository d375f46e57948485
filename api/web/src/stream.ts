/**
 * A client of server-sent events over fetch. The browser's own EventSource gives up for good when a
 * proxy answers 502 once, does not notice a connection that went silent, and cannot say when it
 * will try again; a page that people rely on at night has to do all three.
 */

export interface Message {
  id: string;
  event: string;
  data: string;
}

/** Splits a stream of text into messages, as the HTML standard defines the format. */
export class Parser {
  /** The id to resume after; it stays across messages that carry none. */
  lastId = '';
  /** Milliseconds the server asked us to wait before reconnecting. */
  retry: number | undefined;
  #rest = '';
  #event = '';
  #data: string[] = [];

  feed(chunk: string): Message[] {
    const messages: Message[] = [];
    this.#rest += chunk;
    // A CR at the very end may be half of a CRLF: leave it until more is known.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line === '') {
        if (this.#data.length > 0) messages.push({ id: this.lastId, event: this.#event || 'message', data: this.#data.join('\n') });
        this.#data = [];
        this.#event = '';
        continue;
      }
      const colon = line.indexOf(':');
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'data') this.#data.push(value);
      else if (field === 'event') this.#event = value;
      else if (field === 'id' && !value.includes('\0')) this.lastId = value;
      else if (field === 'retry' && /^\d+$/.test(value)) this.retry = Number(value);
    }
    return messages;
  }
}

export type Connection =
  | { state: 'connecting' }
  | { state: 'open' }
  /** Not connected; the next attempt is at `until` (milliseconds since the epoch, this computer's clock). */
  | { state: 'waiting'; until: number; reason: string };

export interface StreamOptions {
  url: string;
  /** Called for every message, in order. */
  message(message: Message): void;
  /** Called on every change of the connection; `resumed` says that it is not the first time it opened. */
  connection(connection: Connection, resumed: boolean): void;
  /** Waiting time after the first failure, doubled up to `longest` by each further one. Milliseconds. */
  shortest?: number;
  longest?: number;
  /** A connection on which nothing arrives for so long is given up; the server sends a sign of life every 15 s. */
  silence?: number;
}

export class EventStream {
  #options: Required<StreamOptions>;
  #abort: AbortController | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lastId = '';
  #failures = 0;
  #opened = false;
  #retryNow = () => {
    if (this.#timer !== undefined) this.#connect();
  };

  constructor(options: StreamOptions) {
    this.#options = { shortest: 1000, longest: 30_000, silence: 45_000, ...options };
  }

  start(): void {
    addEventListener('online', this.#retryNow);
    document.addEventListener('visibilitychange', this.#retryNow);
    this.#connect();
  }

  stop(): void {
    removeEventListener('online', this.#retryNow);
    document.removeEventListener('visibilitychange', this.#retryNow);
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#abort?.abort();
    this.#abort = undefined;
  }

  /** Tries again at once instead of at the time announced. */
  retry(): void {
    this.#retryNow();
  }

  async #connect(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const abort = new AbortController();
    this.#abort = abort;
    let silence: ReturnType<typeof setTimeout> | undefined;
    let silent = false;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => {
        silent = true;
        abort.abort();
      }, this.#options.silence);
    };
    const parser = new Parser();
    parser.lastId = this.#lastId;
    let reason = 'the server ended the connection';
    this.#options.connection({ state: 'connecting' }, this.#opened);
    try {
      alive();
      const headers: Record<string, string> = { Accept: 'text/event-stream' };
      if (this.#lastId) headers['Last-Event-ID'] = this.#lastId;
      const response = await fetch(this.#options.url, { headers, signal: abort.signal, cache: 'no-store' });
      if (!response.ok || !response.body || !response.headers.get('Content-Type')?.startsWith('text/event-stream')) {
        await response.body?.cancel();
        throw new Error(`the server answered ${response.status} ${response.statusText}`.trim());
      }
      this.#failures = 0;
      this.#options.connection({ state: 'open' }, this.#opened);
      this.#opened = true;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        alive();
        const messages = parser.feed(value);
        // Also when there is no message: signs of life say how far the server has come.
        this.#lastId = parser.lastId;
        for (const m of messages) this.#options.message(m);
      }
    } catch (error) {
      if (silent) reason = `nothing was heard for ${this.#options.silence / 1000} seconds`;
      else if (error instanceof TypeError) reason = 'the server cannot be reached';
      else if (error instanceof Error) reason = error.message;
    } finally {
      clearTimeout(silence);
    }
    if (this.#abort !== abort) return; // stopped
    // Each client waits a different time, or all of them would come back at the same instant.
    const base = Math.min(this.#options.longest, (parser.retry ?? this.#options.shortest) * 2 ** this.#failures);
    const wait = base * (0.75 + Math.random() / 2);
    this.#failures++;
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#options.connection({ state: 'waiting', until: Date.now() + wait, reason }, this.#opened);
  }
}
