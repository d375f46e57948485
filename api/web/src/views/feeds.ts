import { html, nothing, type TemplateResult } from 'lit';
import { customElement } from 'lit/decorators.js';
import type { Feed, Source } from '../api.ts';
import { count, duration, instant } from '../format.ts';
import { live } from '../live.ts';
import { feedStateName, sourceName, sourceStateName } from '../words.ts';
import { Following, moment, View } from '../view.ts';

/** What is being listened to, and how well; and what it is compared with, and how fresh that is. */
@customElement('rv-feeds')
export class FeedsView extends View {
  #usual = live.interval;

  constructor() {
    super();
    new Following(this);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    live.interval = 3000;
    void live.refresh();
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    live.interval = this.#usual;
  }

  protected override render() {
    const { feeds } = live;
    return html`<h1 tabindex="-1">Feeds</h1>
      ${feeds === undefined
        ? html`<p class="loading">${live.unreachable ?? 'Loading…'}</p>`
        : feeds.length === 0
          ? html`<div class="empty"><h2>No feed is configured</h2><p>Without one nothing is watched. <code>routevigil config docs</code> says how to add one.</p></div>`
          : html`<div class="feeds">${feeds.map(card)}</div>`}
      ${live.sources?.length ? sourceTable(live.sources) : nothing}`;
  }
}

export function feedState(feed: Feed): TemplateResult {
  const tone = feed.state === 'connected' || feed.state === 'done' ? 'good' : feed.state === 'connecting' ? 'waiting' : 'bad';
  return html`<span class="state ${tone}">${feedStateName(feed.state)}</span>`;
}

function sourceTable(sources: Source[]): TemplateResult {
  return html`<section aria-labelledby="sources">
    <h2 id="sources">What routes are compared with</h2>
    <div class="table-scroll" tabindex="0" role="group" aria-labelledby="sources">
      <table>
        <thead><tr><th scope="col">Source</th><th scope="col">State</th><th scope="col">Entries</th><th scope="col">As of</th><th scope="col">Confirmed</th><th scope="col">Next attempt</th></tr></thead>
        <tbody>${sources.map(sourceRow)}</tbody>
      </table>
    </div>
  </section>`;
}

function sourceRow(source: Source): TemplateResult {
  const tone = source.last_error ? 'bad' : source.state === 'fresh' ? 'good' : source.state === 'missing' ? 'waiting' : 'bad';
  const next = instant(source.next_attempt);
  return html`<tr data-source=${source.name}>
    <th scope="row">${sourceName(source.name)}<span class="sub hostile">${source.location}</span>
      ${source.last_error ? html`<span class="sub hostile"><strong>Error:</strong> ${source.last_error}</span>` : nothing}</th>
    <td><span class="state ${tone}">${sourceStateName(source.state)}</span></td>
    <td>${count(source.entries)}${source.serial ? html`<span class="sub hostile">${source.serial}</span>` : nothing}</td>
    <td>${moment(source.as_of)}</td>
    <td>${moment(source.checked)}</td>
    <td>${next === undefined ? '–' : html`<rv-age mode="until" wall .from=${next}></rv-age>`}</td>
  </tr>`;
}

function card(feed: Feed): TemplateResult {
  const rate = live.rates.get(feed.name);
  const malformed = Object.entries(feed.malformed ?? {}).sort(([, a], [, b]) => b - a);
  const faults = malformed.reduce((sum, [, n]) => sum + n, 0);
  const next = instant(feed.next_attempt);
  return html`<article class="feed ${feed.state}" data-feed=${feed.name}>
    <header><h2 class="hostile">${feed.name}</h2>${feedState(feed)}</header>
    <p class="sub hostile">${feed.type}${feed.address ? html` from <span class="address">${feed.address}</span>` : nothing}</p>
    ${feed.last_error
      ? html`<p class="notice ${feed.state === 'connected' ? '' : 'warn'}"><strong>${feed.state === 'connected' ? 'Last error' : 'Error'}:</strong> <span class="hostile">${feed.last_error}</span>
          ${next === undefined || feed.state === 'connected' ? nothing : html`<br />Next attempt <rv-age mode="until" wall .from=${next}></rv-age>`}</p>`
      : nothing}
    <dl class="facts">
      <div><dt>For</dt><dd><rv-age mode="span" wall .from=${instant(feed.since)}></rv-age></dd></div>
      <div><dt>Lag</dt><dd>${instant(feed.last_message) === undefined ? '–' : feed.lag_seconds < 10 ? `${feed.lag_seconds.toFixed(1)} s` : duration(feed.lag_seconds * 1000)}</dd></div>
      <div><dt>Messages a second</dt><dd>${rate === undefined ? '–' : rate < 10 ? rate.toFixed(1) : count(Math.round(rate))}</dd></div>
      <div><dt>Peers heard</dt><dd>${count(feed.peers)}</dd></div>
      <div><dt>Messages</dt><dd>${count(feed.messages)}</dd></div>
      <div><dt>Updates</dt><dd>${count(feed.updates)}</dd></div>
      <div><dt>Dropped</dt><dd class=${feed.dropped ? 'bad' : ''}>${count(feed.dropped)}</dd></div>
      <div><dt>Reconnects</dt><dd>${count(feed.reconnects)}</dd></div>
      <div class="wide"><dt>Last message</dt><dd>${moment(feed.last_message)}${feed.last_event_time ? html`<span class="sub">stamped ${moment(feed.last_event_time)}</span>` : nothing}</dd></div>
      <div class="wide"><dt>Malformed</dt><dd class=${faults ? 'bad' : ''}>${count(faults)}
        ${malformed.length ? html`<ul class="reasons">${malformed.map(([reason, n]) => html`<li><span class="hostile">${reason}</span> <b>${count(n)}</b></li>`)}</ul>` : nothing}</dd></div>
    </dl>
  </article>`;
}
