import { existsSync } from 'node:fs';
import { defineConfig } from '@playwright/test';

const chromium = process.env['CHROMIUM'] ?? '/usr/bin/chromium';
const missing = !existsSync(chromium);
if (missing && process.env['CI']) throw new Error(`${chromium} is missing: install Debian's chromium, or name another one with CHROMIUM=…`);
// Also read by the tests: without a browser those that need one are skipped, visibly.
if (missing) process.env['NO_BROWSER'] = `no browser at ${chromium}; install chromium or set CHROMIUM`;

export default defineConfig({
  testDir: 'test',
  // Pictures are made only when somebody wants to look at them.
  testIgnore: process.env['SHOTS'] ? [] : ['shots.spec.ts'],
  timeout: 60_000,
  expect: { timeout: 15_000 }, // generous for a machine that does other things as well
  workers: 2,
  fullyParallel: true,
  forbidOnly: !!process.env['CI'],
  retries: process.env['CI'] ? 1 : 0, // shown as flaky where it helps
  reporter: [['list']],
  use: {
    launchOptions: {
      executablePath: chromium,
      args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    },
    viewport: { width: 1280, height: 900 },
    timezoneId: 'Asia/Tokyo',
    locale: 'de-DE',
    screenshot: 'only-on-failure',
  },
});
