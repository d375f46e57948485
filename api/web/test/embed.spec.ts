import type { Page } from '@playwright/test';
import { expect, test } from './fixture.ts';
import type { Fixture } from './server.ts';
import * as world from './world.ts';

/** A page of somebody else, of another origin, that shows the embed and fits the frame to it. */
async function host(page: Page, server: Fixture, query: string, width = '300px'): Promise<void> {
  const other = server.address.replace('127.0.0.1', 'localhost');
  server.host = `<!doctype html><meta charset="utf-8"><body style="margin:20px"><p>Another site</p>
    <iframe id="frame" title="Routing incidents" src="${server.address}/embed/incidents${query}" style="border:0;width:${width};height:60px"></iframe>
    <script>addEventListener('message', (e) => { if (e.data?.type === 'routevigil:height' && e.source === frame.contentWindow) frame.style.height = e.data.height + 'px'; })</script>`;
  await page.goto(`${other}/host`);
}

const frameOf = (page: Page) => page.frameLocator('#frame');

test.beforeEach(({ server }) => {
  server.tell(world.mainone(Date.now() - 4 * 3_600_000));
  server.tell(world.youtube(Date.now() - 480_000));
});

for (const width of ['300px', '100%']) {
  test(`fits a frame of ${width} and says how high it is`, async ({ page, server }) => {
    await host(page, server, '', width);
    await expect(frameOf(page).locator('.embed-row')).toHaveCount(2);
    const overflow = () =>
      page.frames()[1]!.evaluate(() => {
        const e = document.documentElement;
        return [e.scrollWidth - e.clientWidth, e.scrollHeight - e.clientHeight];
      });
    await expect.poll(overflow).toEqual([0, 0]);
    const height = async () => (await page.locator('#frame').boundingBox())!.height;
    const before = await height();
    server.push('opened', world.prepend(Date.now()));
    await expect(frameOf(page).locator('.embed-row')).toHaveCount(3);
    await expect.poll(height).toBeGreaterThan(before);
    await expect.poll(overflow).toEqual([0, 0]);
  });
}

test('shows only what its address asks for, live, up to its limit', async ({ page, server }) => {
  await host(page, server, '?asn=AS36561&limit=2&min_severity=high');
  const rows = frameOf(page).locator('.embed-row');
  await expect(rows).toHaveCount(1);
  await expect(frameOf(page).locator('h1')).toContainText('AS36561');
  await expect.poll(() => server.streams).toBe(1);
  server.push('opened', world.prepend(Date.now()));
  for (let i = 0; i < 3; i++) server.push('opened', { ...world.incident(world.youtube(Date.now()), 0), id: `inc_N${i}` });
  await expect(rows).toHaveCount(2);
  await expect(rows.first()).toHaveAttribute('data-id', 'inc_N2');
});

test('says that no feed is fresh', async ({ page, server }) => {
  server.feeds = world.feeds().slice(1);
  await host(page, server, '');
  await expect(frameOf(page).locator('.state')).toHaveText('Not ready');
  await expect(frameOf(page).locator('rv-embed')).toContainText('new incidents may be missed');
});

test('opens links in a new tab', async ({ page, server, context }) => {
  await host(page, server, '');
  const opened = context.waitForEvent('page');
  await frameOf(page).getByRole('link', { name: /AS17557/ }).click();
  const tab = await opened;
  await expect(tab).toHaveURL(`${server.address}/incidents/inc_YOUTUBE20080224`);
  expect(await tab.evaluate(() => window.opener)).toBe(null);
});

for (const [theme, scheme, dark] of [['dark', 'light', true], ['light', 'dark', false], ['auto', 'dark', true], ['<b>', 'light', false]] as const) {
  test(`theme ${theme} on a ${scheme} machine`, async ({ page, server }) => {
    await page.emulateMedia({ colorScheme: scheme });
    await page.goto(`${server.address}/embed/incidents?theme=${encodeURIComponent(theme)}`);
    await expect(page.locator('.embed-row').first()).toBeVisible();
    const brightness = await page.evaluate(() => Number(/\d+/.exec(getComputedStyle(document.documentElement).backgroundColor)![0]));
    expect(brightness < 128).toBe(dark);
  });
}

test('says when it cannot reach the server, and recovers', async ({ page, server }) => {
  await host(page, server, '');
  await expect(frameOf(page).locator('.embed-row').first()).toBeVisible();
  await expect.poll(() => server.streams).toBe(1);
  server.dead = true;
  server.cut();
  await expect(frameOf(page).locator('rv-embed')).toContainText('The server cannot be reached. This list may be old. Trying again.');
  server.dead = false;
  await expect(frameOf(page).locator('.state.good')).toHaveText('Live', { timeout: 15_000 });
  await expect(frameOf(page).locator('.embed-problem')).toBeHidden();
});

test('says so too when it never could', async ({ page, server }) => {
  await page.route('**/api/**', (route) => route.abort());
  await page.goto(`${server.address}/embed/incidents`);
  await expect(page.locator('rv-embed')).toContainText('The server cannot be reached. Trying again.');
});
