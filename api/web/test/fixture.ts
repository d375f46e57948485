import { type ConsoleMessage, expect, test as base } from '@playwright/test';
import { Fixture } from './server.ts';

/** Tests with a server of their own, and with the certainty that the page had nothing to complain about. */
export const test = base.extend<{ server: Fixture; complaints: string[]; browserNeeded: undefined }>({
  browserNeeded: [
    async ({}, use) => {
      base.skip(process.env['NO_BROWSER'] !== undefined, process.env['NO_BROWSER']);
      await use(undefined);
    },
    { auto: true },
  ],
  server: async ({}, use) => {
    const server = new Fixture();
    await server.start();
    await use(server);
    await server.stop();
  },
  complaints: [
    async ({ page }, use) => {
      const complaints: string[] = [];
      page.on('pageerror', (error) => complaints.push(String(error)));
      page.on('console', (message: ConsoleMessage) => {
        // A connection that fails is what some tests are about.
        if (message.type() === 'error' && !message.text().includes('Failed to load resource')) complaints.push(message.text());
      });
      await use(complaints);
      expect(complaints).toEqual([]);
    },
    { auto: true },
  ],
});

export { expect };
