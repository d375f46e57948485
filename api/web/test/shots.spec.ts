/** Pictures of every view, for a person to look at: SHOTS=folder npm test -- shots */
import { test } from './fixture.ts';
import * as world from './world.ts';

const folder = process.env['SHOTS'];
const hour = 3_600_000;

test.describe('pictures', () => {
  for (const scheme of ['light', 'dark'] as const) {
    for (const [size, width, height] of [['wide', 1360, 900], ['narrow', 360, 780], ['huge', 3840, 2160]] as const) {
      test(`${scheme} ${size}`, async ({ page, server }) => {
        const now = Date.now();
        for (let i = 30; i > 0; i--) server.tell(world.older(i, now - i * hour));
        server.tell(world.prepend(now - 2 * hour));
        server.tell(world.mainone(now - 3 * hour));
        server.tell(world.tangle(now - 25 * 60_000));
        server.tell(world.attack(now - 15 * 60_000));
        server.tell(world.youtube(now - 8 * 60_000));
        server.feeds = world.feeds();
        server.watches = world.watches();
        await page.emulateMedia({ colorScheme: scheme });
        await page.setViewportSize({ width, height });
        const shoot = async (name: string, address: string, ready: string, fullPage = true) => {
          await page.goto(server.address + address);
          await page.locator(ready).first().waitFor();
          await page.waitForTimeout(400);
          await page.screenshot({ path: `${folder}/${scheme}-${size}-${name}.png`, fullPage });
        };
        await shoot('list', '/', '.rows .title', false);
        await shoot('incident', '/incidents/inc_YOUTUBE20080224', '.node');
        if (size === 'huge') return;
        await shoot('tangle', '/incidents/inc_TANGLE', '.node');
        await shoot('hostile', '/incidents/inc_XSS', '.node');
        await shoot('feeds', '/feeds', '.feed');
        await shoot('watches', '/watches', '.watch');
        await shoot('prefix', '/prefixes/208.65.153.0/24', 'svg.activity');
        await shoot('embed', '/embed/incidents?limit=4', '.embed-row');
        if (size === 'wide') {
          const frame = (query: string, style: string) => `<iframe src="/embed/incidents${query}" style="border:0;margin:12px;vertical-align:top;${style}"></iframe>`;
          server.host = `<!doctype html><body style="background:#dde3d5;font:16px serif"><h1>Another site</h1>${frame('?limit=3&theme=light', 'width:300px;height:470px')}${frame('?limit=3&theme=dark', 'width:300px;height:470px')}<br>${frame('?limit=4&asn=36561', 'width:95%;height:150px')}`;
          await page.goto(`${server.address}/host`);
          await page.waitForTimeout(1500);
          await page.screenshot({ path: `${folder}/${scheme}-frames.png` });
        }
        await shoot('nothing', '/?asn=1', '.empty');
        server.incidents.clear();
        server.feeds = world.feeds().slice(1);
        await shoot('blind', '/', '.empty');
      });
    }
  }
});
