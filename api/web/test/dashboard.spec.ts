import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Page } from '@playwright/test';
import { expect, test } from './fixture.ts';
import type { Fixture } from './server.ts';
import * as world from './world.ts';

const minute = 60_000;

/** The front page, loaded and live. */
async function front(page: Page, server: Fixture, query = ''): Promise<void> {
  await page.goto(server.address + '/' + query);
  await expect(page.locator('.health .state.good')).toHaveText('Live');
  await expect.poll(() => server.streams).toBe(1);
}

const row = (page: Page, id: string) => page.locator(`[data-id="${id}"]`);
const ids = (page: Page) => page.locator('.rows > .row').evaluateAll((rows) => rows.map((r) => r.getAttribute('data-id')));

test.describe('the list', () => {
  test('says what happened, to whom, how severe it is and who sees it', async ({ page, server }) => {
    server.tell(world.youtube(Date.now() - 8 * minute));
    await front(page, server);
    const youtube = row(page, 'inc_YOUTUBE20080224');
    for (const text of ['Critical', 'AS17557 announces 208.65.153.0/24', 'More-specific hijack', 'by AS17557', 'via AS3491', 'affects AS36561', '93 of 120 peers', '8 min', 'Open']) {
      await expect(youtube).toContainText(text);
    }
    await expect(page).toHaveTitle('(1) routevigil');
  });

  test('shows a new incident by itself, at the top, and follows it to its end', async ({ page, server }) => {
    server.tell(world.prepend(Date.now() - 60 * minute));
    await front(page, server);
    await expect(row(page, 'inc_PREPEND201804')).toBeVisible();
    await page.evaluate(() => ((window as unknown as { same: boolean }).same = true));
    const { incident } = server.push('opened', world.youtube(Date.now()));
    const youtube = row(page, incident.id);
    await expect(youtube).toBeVisible();
    await expect(youtube.locator('.new')).toHaveText('New');
    expect(await ids(page)).toEqual([incident.id, 'inc_PREPEND201804']);
    await expect(page.locator('rv-incidents [role=status]')).toContainText('New incident, Critical: AS17557');
    await expect(page.locator('.chip.critical')).toHaveText('1 critical');

    server.push('grew', { ...incident, visibility: { ...incident.visibility, peers: 117 } });
    await expect(youtube).toContainText('117 of 120 peers');
    server.push('ended', { ...incident, status: 'ended', ended_at: new Date().toISOString() });
    await expect(youtube.locator('.status')).toHaveText('Ended');
    await expect(page.locator('.chip.critical')).toHaveText('0 critical');
    expect(await page.evaluate(() => (window as unknown as { same: boolean }).same)).toBe(true);
  });

  test('says that the connection is lost, and misses nothing once it is back', async ({ page, server }) => {
    server.tell(world.prepend(Date.now() - 60 * minute));
    await front(page, server);
    server.dead = true;
    server.cut();
    await expect(page.locator('.health')).toContainText('Connection lost');
    await expect(page.locator('.health')).toContainText('What you see may be old');
    const last = server.events.at(-1)!.sequence;
    server.push('opened', world.youtube(Date.now()));
    await expect(row(page, 'inc_YOUTUBE20080224')).toHaveCount(0);
    // Ask for the next attempt while it is still some seconds away, or it comes by itself.
    await expect(page.locator('.health')).toContainText(/again by itself\s+in ([5-9]|\d\d) s/, { timeout: 30_000 });
    server.dead = false;
    await page.getByRole('button', { name: 'Try now' }).click();
    await expect(row(page, 'inc_YOUTUBE20080224')).toBeVisible({ timeout: 4000 });
    await expect(page.locator('.health .state.good')).toHaveText('Live');
    expect(server.resumed.at(-1)).toBe(String(last));
  });

  test('comes back without help', async ({ page, server }) => {
    await front(page, server);
    server.cut();
    await expect.poll(() => server.resumed.length).toBe(2);
    server.push('opened', world.youtube(Date.now()));
    await expect(row(page, 'inc_YOUTUBE20080224')).toBeVisible();
  });

  test('starts over when the demo was restarted', async ({ page, server }) => {
    server.tell(world.youtube(Date.now()));
    await front(page, server);
    await expect(row(page, 'inc_YOUTUBE20080224')).toBeVisible();
    server.incidents.clear();
    server.events = [];
    server.tell(world.prepend(Date.now()));
    server.startedAt = new Date().toISOString();
    server.cut();
    await expect(row(page, 'inc_PREPEND201804')).toBeVisible();
    await expect(row(page, 'inc_YOUTUBE20080224')).toHaveCount(0);
  });

  test('keeps its filter in the address, and live incidents to the filter', async ({ page, server }) => {
    server.tell(world.mainone(Date.now() - 300 * minute));
    server.tell(world.youtube(Date.now() - minute));
    await front(page, server);
    await page.getByLabel('AS number or prefix').fill('AS15169');
    await page.getByRole('button', { name: 'Filter' }).click();
    await expect(page).toHaveURL(/\?asn=15169$/);
    await expect.poll(() => ids(page)).toEqual(['inc_MAINONE20181112']);
    await page.getByLabel('Status').selectOption('open');
    await expect(page).toHaveURL(/\?status=open&asn=15169$/);
    await expect(page.getByText('No incident fits this filter')).toBeVisible();

    server.push('opened', { ...world.incident(world.prepend(Date.now()), 0), status: 'open', ended_at: null });
    const { incident } = server.push('opened', { ...world.incident(world.mainone(Date.now()), 0), id: 'inc_AGAIN', status: 'open', ended_at: null });
    await expect.poll(() => ids(page)).toEqual([incident.id]);

    await page.reload();
    await expect(page.getByLabel('AS number or prefix')).toHaveValue('AS15169');
    await expect(page.getByLabel('Status')).toHaveValue('open');
    await expect.poll(() => ids(page)).toEqual([incident.id]);
    await page.goBack();
    await expect(page.getByLabel('Status')).toHaveValue('');
    await expect.poll(() => ids(page)).toEqual([incident.id, 'inc_MAINONE20181112']);
  });

  test('explains a search it cannot understand instead of ignoring it', async ({ page, server }) => {
    await front(page, server);
    const before = server.requests.filter((r) => r.includes('/incidents?')).length;
    await page.getByLabel('AS number or prefix').fill('google');
    await page.getByRole('button', { name: 'Filter' }).click();
    await expect(page.locator('#search-error')).toContainText('“google” is neither an AS number nor a prefix');
    expect(server.requests.filter((r) => r.includes('/incidents?'))).toHaveLength(before);
  });

  test('goes through the pages without a row twice or missing', async ({ page, server }) => {
    for (let i = 120; i > 0; i--) server.tell(world.older(i, Date.now() - i * 60 * minute));
    await front(page, server);
    await expect(page.locator('.rows > .row')).toHaveCount(50);
    server.push('opened', world.youtube(Date.now())); // shifts what a page number would mean
    await page.getByRole('button', { name: 'Show older incidents' }).click();
    await expect(page.locator('.rows > .row')).toHaveCount(101);
    await page.getByRole('button', { name: 'Show older incidents' }).click();
    await expect(page.locator('.more')).toContainText('That is all: 121 incidents.');
    const all = await ids(page);
    expect(new Set(all).size).toBe(121);
  });

  test('does not move what is being read when something arrives', async ({ page, server }) => {
    for (let i = 60; i > 0; i--) server.tell(world.older(i, Date.now() - i * 60 * minute));
    await front(page, server);
    const subject = row(page, 'inc_OLD0030');
    await subject.scrollIntoViewIfNeeded();
    const before = (await subject.boundingBox())!.y;
    const { incident } = server.push('opened', world.youtube(Date.now()));
    await expect(row(page, incident.id)).toBeAttached();
    server.push('grew', { ...incident, prefix_count: 9 });
    await expect(row(page, incident.id)).toContainText('and 8 more');
    await expect.poll(async () => Math.abs((await subject.boundingBox())!.y - before)).toBeLessThan(2);
  });

  test('says what is watched when all is quiet', async ({ page, server }) => {
    await front(page, server);
    await expect(page.locator('.empty')).toContainText('Watching ris-live: 1,204 peers');
  });

  test('says on top that a feed is down, why, and when it tries again', async ({ page, server }) => {
    server.feeds = world.feeds().slice(1);
    server.reasons = ['The store cannot write: no space left on device.'];
    await page.goto(server.address);
    const health = page.locator('.health');
    for (const text of ['lab', 'Connecting', 'connection refused', /next attempt in \d+ s/, 'no space left on device', 'Watching 0 of 1 feed']) await expect(health).toContainText(text);
    await expect(page.locator('.empty')).toContainText('nothing is being watched');
    await expect(health.locator('.state').first()).toHaveText('Not ready');
  });

  test('shows the error of the server and recovers from it', async ({ page, server }) => {
    await page.route('**/api/v1/incidents?*', (route) => route.fulfill({ status: 503, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Service Unavailable', status: 503, detail: 'The store is busy.' }) }));
    await page.goto(server.address);
    await expect(page.locator('.empty')).toContainText('The store is busy.');
    await page.unroute('**/api/v1/incidents?*');
    await page.getByRole('button', { name: 'Try again' }).click();
    await expect(page.locator('.empty')).toContainText('No incidents');
  });
});

test.describe('an incident', () => {
  test('opens from the list, and going back finds the list', async ({ page, server }) => {
    server.tell(world.youtube(Date.now() - 8 * minute));
    await front(page, server);
    await page.getByRole('link', { name: /AS17557 announces/ }).click();
    await expect(page).toHaveURL(/\/incidents\/inc_YOUTUBE20080224$/);
    await expect(page.getByRole('heading', { level: 1 })).toContainText('AS17557 announces 208.65.153.0/24');
    await expect(page.getByRole('heading', { level: 1 })).toBeFocused();
    const asked = server.requests.filter((r) => r.includes('/incidents?')).length;
    await page.goBack();
    await expect(row(page, 'inc_YOUTUBE20080224')).toBeVisible();
    expect(server.requests.filter((r) => r.includes('/incidents?'))).toHaveLength(asked);
  });

  test('draws its paths: every network once, marked by its part', async ({ page, server }) => {
    const story = world.youtube(Date.now() - 8 * minute);
    server.tell(story);
    await page.goto(`${server.address}/incidents/${story.id}`);
    const networks = new Set([...story.paths, ...story.usual].flat());
    await expect(page.locator('.node')).toHaveCount(networks.size);
    expect(new Set(await page.locator('.node').evaluateAll((nodes) => nodes.map((n) => Number(n.getAttribute('data-asn')))))).toEqual(networks);
    for (const [role, asn] of [['offender', 17557], ['accomplice', 3491], ['victim', 36561]] as const) {
      await expect(page.locator(`.node.${role}`)).toHaveAttribute('data-asn', String(asn));
      await expect(page.locator(`.node.${role} .role`)).toHaveText(role);
    }
    const links = new Set([...story.paths, ...story.usual].flatMap((p) => p.slice(1).map((to, i) => `${p[i]}>${to}`)));
    await expect(page.locator('.edge')).toHaveCount(links.size);
    const last = page.locator('.edge[data-from="3491"][data-to="17557"]');
    await expect(last.locator('.offending')).toHaveCount(1);
    await expect(last.locator('.usual')).toHaveCount(0);
    const thin = page.locator('.edge[data-from="12859"] .offending');
    const width = async (l: typeof thin) => Number(await l.getAttribute('stroke-width'));
    expect(await width(last.locator('.offending'))).toBeGreaterThan(await width(thin));
    const x = async (asn: number) => (await page.locator(`.node[data-asn="${asn}"] .box`).boundingBox())!.x;
    expect(await x(3333)).toBeLessThan(await x(3491));
    expect(await x(3491)).toBeLessThan(await x(17557));
    await expect(page.locator('.path-list .hops').filter({ hasText: 'AS3333 › AS12859 › AS6461 › AS3491 (accomplice) › AS17557 (offender)' })).toHaveCount(1);
  });

  test('lets a path be followed with the mouse and with the keyboard', async ({ page, server }) => {
    const story = world.youtube(Date.now() - 8 * minute);
    server.tell(story);
    await page.goto(`${server.address}/incidents/${story.id}`);
    const active = () => page.locator('.node.active').evaluateAll((nodes) => nodes.map((n) => Number(n.getAttribute('data-asn'))).sort((a, b) => a - b));
    await page.locator('.path').filter({ hasText: 'AS12859' }).hover();
    expect(await active()).toEqual([3333, 3491, 6461, 12859, 17557].sort((a, b) => a - b));
    await page.mouse.move(0, 0);
    await expect.poll(active).toEqual([]);

    await page.locator('.node[tabindex="0"]').focus();
    await expect(page.locator('.node[tabindex="0"]')).toHaveCount(1);
    for (let i = 0; i < 8; i++) await page.keyboard.press('ArrowRight');
    const focused = page.locator('.node:focus');
    await expect(focused).toHaveClass(/origin/);
    await expect(focused).toHaveAttribute('aria-label', /^AS(17557, offender, origin: on 15 offending paths and 0 usual paths|36561, victim, origin: on 0 offending paths and 12 usual paths)$/);
    await page.keyboard.press('Enter');
    await expect(focused).toHaveAttribute('aria-pressed', 'true');
    await page.locator('h1').click();
    expect((await active()).length).toBeGreaterThan(3);
  });

  test('shows the whole ledger, what speaks against included', async ({ page, server }) => {
    const story = world.youtube(Date.now() - 8 * minute);
    server.tell(story);
    await page.goto(`${server.address}/incidents/${story.id}`);
    const ledger = page.locator('.ledger');
    await expect(ledger.locator('tbody.for tr:not(.group)')).toHaveCount(4);
    await expect(ledger.locator('tbody.against tr:not(.group)')).toHaveCount(2);
    await expect(ledger.locator('tbody.against')).toContainText('Speaks against it: −1.10');
    await expect(ledger.locator('tbody.against')).toContainText('no ROA covers the prefix');
    await expect(ledger.locator('tfoot')).toContainText('+5.60');
    await expect(ledger.locator('tfoot')).toContainText('99.6 %');
    await expect(ledger.locator('tbody.for')).toContainText('AS relationships2008-02');
  });

  test('shows its course, its prefixes and who was told', async ({ page, server }) => {
    const story = world.youtube(Date.now() - 8 * minute);
    server.tell(story, 900);
    await page.goto(`${server.address}/incidents/${story.id}`);
    await expect(page.locator('.changes li strong')).toHaveText(['Grew', 'Grew', 'Severity changed', 'Grew', 'Opened']);
    await expect(page.locator('.changes li').nth(2)).toContainText('severity Low → Critical, peers 42 → 65');
    await expect(page.locator('.timeline .series')).toHaveCount(2);
    await expect(page.locator('.timeline .mark')).toHaveCount(5);
    const prefixes = page.getByRole('region', { name: /Affected prefixes/ });
    await expect(prefixes.locator('tbody :is(th, td)')).toHaveText(['208.65.153.0/24', '208.65.152.0/22', 'AS36561', 'AS17557', 'Not found', 'Not found']);
    const told = page.getByRole('region', { name: 'Who was told' }).locator('tbody tr');
    await expect(told).toHaveCount(3);
    await expect(told.nth(0)).toContainText('202 Accepted');
    await expect(told.nth(1)).toContainText(/Waiting.*next attempt.*500 Internal Server Error/s);
    await expect(told.nth(2)).toContainText(/Given up.*410 Gone/s);
  });

  test('stays current', async ({ page, server }) => {
    const story = world.youtube(Date.now() - 8 * minute);
    server.tell(story);
    await page.goto(`${server.address}/incidents/${story.id}`);
    await expect(page.locator('.changes li')).toHaveCount(5);
    await expect.poll(() => server.streams).toBe(1);
    const now = server.incidents.get(story.id)!;
    server.push('ended', { ...now, status: 'ended', ended_at: new Date().toISOString(), visibility: { ...now.visibility, peers: 2 } });
    await expect(page.locator('.incident .status')).toHaveText('Ended');
    await expect(page.locator('.changes li')).toHaveCount(6);
    await expect(page.locator('.changes li').first()).toContainText('Ended');
    await expect(page.locator('.facts')).toContainText(/93 of \d+ peers.*at its widest/s);
  });

  test('copies its link and links its JSON', async ({ page, server, context }) => {
    const story = world.youtube(Date.now() - 8 * minute);
    server.tell(story);
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.goto(`${server.address}/incidents/${story.id}`);
    await page.getByRole('button', { name: 'Copy link' }).click();
    await expect(page.getByRole('button', { name: 'Link copied' })).toBeVisible();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(`${server.address}/incidents/${story.id}`);
    const json = await page.getByRole('link', { name: 'JSON', exact: true }).getAttribute('href');
    expect((await page.request.get(server.address + json!)).status()).toBe(200);
  });

  test('that does not exist says so', async ({ page, server }) => {
    await page.goto(`${server.address}/incidents/inc_NONE`);
    await expect(page.getByRole('heading', { name: 'There is no such incident' })).toBeVisible();
  });

  test('with hostile text stays text', async ({ page, server }) => {
    const story = world.attack(Date.now() - minute);
    server.tell(story);
    for (const address of ['/', `/incidents/${story.id}`, '/prefixes/203.0.113.0/24', '/embed/incidents']) {
      await page.goto(server.address + address);
      await expect(page.getByText('window.pwned=1').first()).toBeVisible();
      await page.waitForTimeout(200);
      expect(await page.evaluate(() => 'pwned' in window)).toBe(false);
      expect(await page.locator('img, script:not([src])').count()).toBe(0);
    }
    await page.goto(`${server.address}/prefixes/${encodeURIComponent('<img src=x onerror=window.pwned=1>')}`);
    await expect(page.locator('.notice')).toContainText('is not a prefix');
    expect(await page.evaluate(() => 'pwned' in window)).toBe(false);
  });
});

test('feeds: state, lag, rate, faults and the next attempt', async ({ page, server }) => {
  server.feeds = world.feeds();
  await page.goto(`${server.address}/feeds`);
  const live = page.locator('[data-feed="ris-live"]');
  for (const text of ['Connected', '1.1 s', '1,204', 'bad AS_PATH length 12', 'wss://ris-live.ripe.net/v1/ws/']) await expect(live).toContainText(text);
  const lab = page.locator('[data-feed="lab"]');
  for (const text of ['Connecting', 'connection refused', 'Next attempt']) await expect(lab).toContainText(text);
  server.feeds[0]!.messages += 9000;
  await expect(live.locator('dt:has-text("Messages a second") + dd')).toHaveText(/^[\d,]{3,}$/, { timeout: 8000 });
});

test('sources: what routes are compared with, how fresh it is, and what is wrong with it', async ({ page, server }) => {
  await page.goto(`${server.address}/feeds`);
  const vrps = page.locator('[data-source="vrps"]');
  for (const text of ['RPKI: who may originate what', 'https://rpki.example/export.json', 'Fresh', '712,345']) await expect(vrps).toContainText(text);
  const orgs = page.locator('[data-source="as_org"]');
  for (const text of ['Organisations behind networks', 'Stale', 'Error: line 17: no format line']) await expect(orgs).toContainText(text);
  server.sources = [];
  await expect(page.getByRole('heading', { name: 'What routes are compared with' })).toHaveCount(0, { timeout: 8000 });
});

test('a prefix: who announces it, since when, its incidents and updates', async ({ page, server }) => {
  server.tell(world.youtube(Date.now() - 8 * minute));
  await front(page, server);
  await page.getByLabel('Prefix or address').fill('nonsense');
  await page.getByRole('button', { name: 'Look up' }).click();
  await expect(page.locator('#look-up-error')).toContainText('Not a prefix');
  await page.getByLabel('Prefix or address').fill('208.65.153.0/24');
  await page.keyboard.press('Enter');
  await expect(page).toHaveURL(/\/prefixes\/208\.65\.153\.0\/24$/);
  const origins = page.getByRole('region', { name: 'Announced now by' });
  for (const text of ['AS17557', '93 of 120 peers', '80 networks', 'Not found', '208.65.152.0/22']) await expect(origins).toContainText(text);
  await expect(page.getByRole('region', { name: 'Incidents' })).toContainText('AS17557 announces 208.65.153.0/24');
  await expect(page.getByRole('region', { name: 'Recent updates' }).locator('tbody tr')).toHaveCount(60);
  await page.reload();
  await expect(origins).toContainText('AS17557');
});

test('a prefix: how often it was announced and withdrawn', async ({ page, server }) => {
  await page.goto(`${server.address}/prefixes/208.65.153.0/24`);
  const activity = page.getByRole('region', { name: 'Activity' });
  await expect(activity.locator('rect.announced')).toHaveCount(96);
  const asked = () => new URL(server.requests.findLast((r) => r.includes('/activity?'))!, server.address).searchParams;
  expect(Date.parse(asked().get('to')!) - Date.parse(asked().get('from')!)).toBe(24 * 60 * minute);
  const first = world.activity(Date.parse(asked().get('from')!), Date.parse(asked().get('to')!), 15 * minute).series![0]!;
  await expect(activity.locator('.readout')).toContainText(first.announcements.toLocaleString('en-GB'));
  // As high as their counts say, and both on one scale.
  const heights = (what: string) => activity.locator(`rect.${what}`).evaluateAll((all) => all.map((r) => Number(r.getAttribute('height'))));
  const announced = await heights('announced');
  const withdrawn = await heights('withdrawn');
  const unit = announced[0]! / first.buckets![0]!.announcements;
  announced.forEach((h, i) => expect(h).toBeCloseTo(first.buckets![i]!.announcements * unit, 6));
  expect(withdrawn).toHaveLength(first.buckets!.filter((b) => b.withdrawals).length);
  expect(withdrawn[0]).toBeCloseTo(first.buckets!.find((b) => b.withdrawals)!.withdrawals * unit, 6);

  await activity.locator('rect.announced').nth(40).hover();
  await expect(activity.locator('.readout')).toContainText(`${first.buckets![40]!.announcements} announcements`);
  await activity.getByRole('combobox').selectOption('7 days');
  await expect(activity.locator('rect.announced')).toHaveCount(84);
  expect(asked().get('bucket')).toBe('2h');
});

test('watches: what was declared, what the table has beside it, and what is open', async ({ page, server }) => {
  server.tell(world.youtube(Date.now() - minute));
  server.watches = world.watches();
  await page.goto(server.address);
  await page.getByRole('link', { name: 'Watches' }).click();
  await expect(page).toHaveURL(/\/watches$/);
  const video = page.locator('[data-watch="video"]');
  for (const text of [
    '208.65.152.0/22', 'AS36561', '1 open incident', '208.65.153.0/24 by AS17557, 93 peers', 'AS701 beside AS36561, 12 routes', 'scrubbing test originated by AS64500 in 208.65.152.0/24, until', 'new transit: New neighbour of AS701, until',
  ]) await expect(video).toContainText(text);
  await expect(video.getByRole('link', { name: 'AS17557 announces 208.65.153.0/24' })).toHaveAttribute('href', '/incidents/inc_YOUTUBE20080224');
  const other = page.locator('.watch').nth(1);
  for (const text of ['window.pwned=1', 'AS-EXAMPLE: 41 networks', 'Nothing open', 'Anybody']) await expect(other).toContainText(text);
  expect(await page.evaluate(() => 'pwned' in window)).toBe(false);

  server.watches = [];
  await page.reload();
  await expect(page.locator('.empty')).toContainText('routevigil config init --asn');
  server.watches = undefined;
  await page.reload();
  await expect(page.locator('.notice')).toContainText('This process does not detect');
});

test('nothing overflows on a narrow screen, and long words break', async ({ page, server }) => {
  server.tell({ ...world.youtube(Date.now() - minute), title: 'x'.repeat(400), explanation: 'y'.repeat(900) });
  await page.setViewportSize({ width: 360, height: 780 });
  server.watches = world.watches();
  for (const address of ['/', '/incidents/inc_YOUTUBE20080224', '/feeds', '/watches', '/prefixes/208.65.153.0/24']) {
    await page.goto(server.address + address);
    await page.locator('.row .title, .node, .feed, .watch, .updates td').first().waitFor();
    expect(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), address).toBe(0);
  }
});

test('readable by everybody: no violation of WCAG AA that axe can find', async ({ page, server }) => {
  server.tell(world.prepend(Date.now() - 60 * minute));
  server.tell(world.youtube(Date.now() - 8 * minute));
  server.feeds = world.feeds();
  server.watches = world.watches();
  const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  for (const scheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    for (const address of ['/', '/incidents/inc_YOUTUBE20080224', '/feeds', '/watches', '/prefixes/208.65.153.0/24', '/embed/incidents', '/?asn=1']) {
      await page.goto(server.address + address);
      await page.locator('.row .title, .node, .feed, .watch, .updates td, .embed-row, .empty').first().waitFor();
      await page.evaluate(axe);
      const violations = await page.evaluate(async () => {
        const result = await (window as unknown as { axe: { run(options: unknown): Promise<{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }> } }).axe.run({
          runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'],
        });
        return result.violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.html.slice(0, 160)} ${n.failureSummary}`).join('; ')}`);
      });
      expect(violations, `${scheme} ${address}`).toEqual([]);
    }
  }
});
