import { html, nothing, type TemplateResult } from 'lit';
import { customElement, state } from 'lit/decorators.js';
import { get, type Incident, isAbort, type List, message, type Watch } from '../api.ts';
import { asn, count, instant, plural } from '../format.ts';
import { live } from '../live.ts';
import { kindName } from '../words.ts';
import { asnLink, asnList, moment, prefixLink, View } from '../view.ts';

/** What operators declared of their networks, what the table has that they did not, and what is open because of it. */
@customElement('rv-watches')
export class WatchesView extends View {
  @state() private watches: Watch[] | undefined;
  @state() private error = '';
  /** Titles of open incidents, as far as they are known. */
  @state() private titles: ReadonlyMap<string, string> = new Map();

  #abort = new AbortController();
  #stops: (() => void)[] = [];
  #timer: ReturnType<typeof setInterval> | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    this.#stops = [live.on('resumed', () => void this.#load()), live.on('incident', ({ incident }) => void (incident.watches?.length && this.#load()))];
    this.#timer = setInterval(() => !document.hidden && void this.#load(), 15_000);
    void this.#load();
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    for (const stop of this.#stops) stop();
    clearInterval(this.#timer);
    this.#abort.abort();
  }

  async #load(): Promise<void> {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    try {
      this.watches = (await get<List<Watch>>('watches', {}, signal)).items ?? [];
      this.error = '';
      const known = new Map<string, string>();
      for (const id of this.watches.flatMap((w) => w.incidents?.slice(0, named) ?? []).slice(0, 50)) {
        known.set(id, this.titles.get(id) ?? (await get<Incident>(`incidents/${encodeURIComponent(id)}`, {}, signal)).title);
      }
      this.titles = known;
    } catch (error) {
      if (!isAbort(error)) this.error = message(error);
    }
  }

  protected override render() {
    return html`<h1 tabindex="-1">Watches</h1>
      ${this.error ? html`<p class="notice warn" role="alert"><span class="hostile">${this.error}</span></p>` : nothing}
      ${this.watches === undefined
        ? this.error ? nothing : html`<p class="loading" aria-busy="true">Loading…</p>`
        : this.watches.length === 0
          ? html`<div class="empty"><h2>Nothing is watched in particular</h2>
              <p>All of the table is judged, but nobody has said what is theirs. <code>routevigil config init --asn AS…</code> writes a watch from what is known of a network.</p></div>`
          : html`<div class="watches">${this.watches.map((w) => card(w, this.titles))}</div>`}`;
  }
}

/** How many open incidents of a watch are shown by their titles. */
const named = 5;

function card(watch: Watch, titles: ReadonlyMap<string, string>): TemplateResult {
  const { found } = watch;
  const open = watch.incidents ?? [];
  return html`<article class="watch" data-watch=${watch.name}>
    <header><h2 class="hostile">${watch.name}</h2>
      ${watch.importance === 'normal' ? nothing : html`<span class="tag">${watch.importance === 'high' ? 'Important' : 'Less important'}</span>`}
      ${open.length ? html`<span class="state bad">${plural(open.length, 'open incident')}</span>` : html`<span class="state good">Nothing open</span>`}</header>
    <dl class="facts">
      <div><dt>Prefixes</dt><dd>${some(watch.prefixes, prefixLink)}<span class="sub">${count(found.announced)} announced now, parts included</span></dd></div>
      <div><dt>Networks</dt><dd>${asnList(watch.asns)}${watch.as_sets?.length
        ? html`<span class="sub hostile">${watch.as_sets.join(', ')}: ${plural(watch.members, 'network')}</span>` : nothing}</dd></div>
      <div><dt>May originate</dt><dd>${watch.origin_count ? some(watch.origins, asnLink, watch.origin_count) : 'Anybody'}</dd></div>
      <div><dt>May stand beside it</dt><dd>${watch.neighbours?.length ? some(watch.neighbours, asnLink) : 'Anybody'}</dd></div>
    </dl>
    ${open.length
      ? html`<ul class="open">${open.slice(0, named).map((id) => html`<li><a class="hostile" href="/incidents/${encodeURIComponent(id)}">${titles.get(id) ?? id}</a></li>`)}
          ${open.length > named ? html`<li>and ${count(open.length - named)} more</li>` : nothing}</ul>`
      : nothing}
    ${listing('Origins that the watch does not name', found.unknown_origins, (o) => html`${prefixLink(o.prefix)} by ${asnLink(o.origin)}, ${plural(o.peers, 'peer')}`)}
    ${listing('Prefixes that the watch does not name', found.unknown_prefixes, (o) => html`${prefixLink(o.prefix)} by ${asnLink(o.origin)}, ${plural(o.peers, 'peer')}`)}
    ${listing('Neighbours that the watch does not name', found.unknown_neighbours, (l) => html`${asnLink(l.neighbour)} beside ${asnLink(l.asn)}, ${plural(l.routes, 'route')}`)}
    ${listing('Planned', watch.planned, (p) => html`<span class="hostile">${p.reason || 'no reason given'}</span>${about([p.origins, 'originated by'], [p.upstreams, 'through'])}${places(p.prefixes)}, ${until(p.until)}`)}
    ${listing('Muted', watch.mutes, (m) => html`<span class="hostile">${m.reason || 'no reason given'}</span>${m.kinds?.length ? html`: ${m.kinds.map(kindName).join(', ')}` : nothing}${about([m.asns, 'of'])}${places(m.prefixes)}, ${until(m.until)}`)}
  </article>`;
}

/** The first few of a list, and how many there are beside. */
function some<T>(list: T[] | null, draw: (item: T) => TemplateResult, all = list?.length ?? 0): TemplateResult {
  if (!list?.length) return html`–`;
  const most = 6;
  return html`${join(list.slice(0, most), draw)}${all > most ? ` and ${count(all - most)} more` : nothing}`;
}

const join = <T>(list: T[], draw: (item: T) => TemplateResult): TemplateResult[] => list.map((item, i) => html`${i ? ', ' : ''}${draw(item)}`);

function listing<T>(title: string, list: T[] | null, draw: (item: T) => TemplateResult): TemplateResult | typeof nothing {
  if (!list?.length) return nothing;
  return html`<details ?open=${list.length <= 5}><summary>${title} (${count(list.length)})</summary><ul>${list.map((item) => html`<li>${draw(item)}</li>`)}</ul></details>`;
}

const about = (...parts: [number[] | null, string][]): (string | typeof nothing)[] => parts.map(([list, word]) => (list?.length ? ` ${word} ${list.map(asn).join(', ')}` : nothing));
const places = (prefixes: string[] | null): string | typeof nothing => (prefixes?.length ? ` in ${prefixes.join(', ')}` : nothing);
const until = (text: string): TemplateResult => html`until ${moment(text)} (<rv-age mode="until" wall .from=${instant(text)}></rv-age>)`;
