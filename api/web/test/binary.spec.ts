/** The program itself, as a newcomer starts it: routevigil serve --demo. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { List, Incident } from '../src/api.ts';
import { expect, test } from './fixture.ts';

const root = join(import.meta.dirname, '../../..');

test.describe.configure({ mode: 'serial' });

test.describe('the demo', () => {
  let folder: string;
  let service: ChildProcess;
  let address: string;

  test.beforeAll(async () => {
    test.setTimeout(300_000);
    test.skip(process.env['NO_BROWSER'] !== undefined, process.env['NO_BROWSER']);
    const go = spawnSync('go', ['version']).error;
    if (go && process.env['CI']) throw go;
    test.skip(go !== undefined, 'Go is not installed, so there is no program to start');
    folder = mkdtempSync(join(tmpdir(), 'routevigil-web-'));
    const program = join(folder, 'routevigil');
    execFileSync('go', ['build', '-o', program, './cmd/routevigil'], { cwd: root, env: { ...process.env, CGO_ENABLED: '0' }, stdio: ['ignore', 'inherit', 'inherit'] });
    const configuration = join(folder, 'routevigil.yaml');
    writeFileSync(configuration, 'api:\n  listen: 127.0.0.1:0\n');
    service = spawn(program, ['serve', '--demo', '-c', configuration], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
    address = await new Promise<string>((found, failed) => {
      let said = '';
      service.stderr!.on('data', (chunk) => {
        said += chunk;
        const match = /dashboard and API on (http:\/\/\S+)/.exec(said);
        if (match) found(match[1]!);
      });
      service.on('exit', (code) => failed(new Error(`routevigil ended with ${code}: ${said}`)));
    });
  });

  test.afterAll(async () => {
    if (service?.exitCode === null) {
      const ended = new Promise((done) => service.once('exit', done));
      service.kill('SIGTERM');
      await ended;
    }
    if (folder) rmSync(folder, { recursive: true });
  });

  test('shows incidents as they come, and each with its proof', async ({ page }) => {
    test.setTimeout(180_000);
    await page.goto(address);
    await expect(page.locator('.health .state.good')).toHaveText('Live');
    await expect(page.locator('.health .tag')).toHaveText('Demo');
    await expect(page.locator('.health')).toContainText(/Watching 1 of 1 feed, [1-9]\d* peers/);

    // Whatever the demo begins with, what comes next arrives by the stream alone.
    const rows = page.locator('.rows > .row');
    await expect(page.locator('.rows > .row.fresh').first()).toBeVisible({ timeout: 120_000 });
    const youtube = rows.filter({ hasText: '208.65.153.0/24' }).first();
    await expect(youtube).toBeVisible({ timeout: 60_000 });
    await expect(youtube).toContainText('More-specific hijack');
    await expect(youtube).toContainText('by AS17557');
    await youtube.getByRole('link').click();

    await expect(page.locator('h1')).toContainText('208.65.153.0/24');
    const { items } = (await (await page.request.get(`${address}/api/v1/incidents?asn=17557`)).json()) as List<Incident>;
    const incident = items!.find((i) => location(page).endsWith(i.id))!;
    const networks = new Set([...incident.paths!, ...incident.usual_paths!].flat());
    await expect.poll(async () => page.locator('.node').count()).toBeGreaterThanOrEqual(networks.size);
    await expect(page.locator('.node.offender')).toHaveAttribute('data-asn', '17557');
    await expect(page.locator('.node.victim').first()).toHaveAttribute('data-asn', '36561');
    await expect(page.locator('.ledger tbody.for tr:not(.group)').first()).toBeVisible();
    await expect(page.locator('.changes li').last()).toContainText('Opened');
    await expect(page.locator('.hops').filter({ hasText: 'AS17557 (offender)' }).first()).toBeVisible();
  });

  test('answers for a prefix and for its feed', async ({ page }) => {
    await page.goto(`${address}/prefixes/208.65.152.0/22`);
    await expect(page.getByRole('region', { name: 'Announced now by' })).toContainText('AS36561');
    await expect(page.getByRole('region', { name: 'Incidents' })).toContainText('208.65.153.0/24', { timeout: 60_000 });
    await page.getByRole('link', { name: 'Feeds', exact: true }).first().click();
    await expect(page.locator('.feed .state')).toHaveText('Connected');
  });

  test('shows what an operator watches', async ({ page }) => {
    await page.goto(`${address}/watches`);
    const watch = page.locator('[data-watch="video"]');
    for (const text of ['208.65.152.0/22', 'AS36561']) await expect(watch).toContainText(text);
    await expect(watch.locator('.open a').filter({ hasText: 'AS17557' }).first()).toBeVisible({ timeout: 60_000 });
    await expect(watch).toContainText('208.65.153.0/24 by AS17557');
  });

  test('may be embedded elsewhere, the dashboard may not', async ({ page }) => {
    await page.goto(`${address}/embed/incidents?asn=17557`);
    await expect(page.locator('.embed-row').first()).toBeVisible({ timeout: 60_000 });
    const policy = async (path: string) => (await page.request.get(address + path)).headers()['content-security-policy'];
    expect(await policy('/embed/incidents')).toContain('frame-ancestors *');
    expect(await policy('/')).toContain("frame-ancestors 'none'");
  });
});

const location = (page: { url(): string }) => new URL(page.url()).pathname;
