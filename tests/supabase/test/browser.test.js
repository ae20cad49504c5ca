// The same clients in a real Chromium: its own WebSocket, its own CORS.

import assert from 'node:assert/strict';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { Site } from '../../../clients/js/test/site.js';
import { until } from './clients.js';

const PACKAGES = ['@supabase/supabase-js', '@supabase/realtime-js', 'realtime-js-2025'];

/** What runs in the page. */
const SOURCE = `
  import { createClient } from '@supabase/supabase-js';
  import { RealtimeClient } from '@supabase/realtime-js';
  import { RealtimeClient as RealtimeClient2025 } from 'realtime-js-2025';
  const socket = (Client, path) => (http) => new Client(http.replace('http', 'ws') + path, { params: { apikey: 'any-key' } });
  const clients = {
    '@supabase/supabase-js': (http) => createClient(http, 'any-key'),
    '@supabase/realtime-js': socket(RealtimeClient, '/realtime/v1'),
    'realtime-js-2025': socket(RealtimeClient2025, '/socket'),
  };
  window.follow = (name, http) => {
    window.got = { changes: [], broadcasts: [], statuses: [], resets: 0 };
    const channel = clients[name](http).channel('floor', { config: { broadcast: { self: true, ack: true } } });
    window.channel = channel
      .on('postgres_changes', { event: '*', schema: 'public', table: 'orders' }, (payload) => got.changes.push(payload))
      .on('broadcast', { event: 'hi' }, ({ payload }) => got.broadcasts.push(payload))
      .on('system', {}, ({ cursor, reset }) => {
        if (reset) got.resets++;
        if (cursor) channel.updateJoinPayload({ resume: cursor });
      });
    channel.updateJoinPayload({ resume: '' });
    channel.subscribe((status) => got.statuses.push(status));
  };`;

test('rows, broadcasts, and a gateway that goes and comes back', async (t) => {
  const site = await Site.start(t);
  await site.serve('create table orders (id bigint primary key, note text)', 'orders');
  const [gateway, other] = site.gateways;
  const resolveDir = fileURLToPath(new URL('..', import.meta.url));
  const bundle = await build({ stdin: { contents: SOURCE, resolveDir }, bundle: true, write: false, format: 'iife', platform: 'browser' });
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
  t.after(() => browser.close());
  const pages = [];
  for (const name of PACKAGES) {
    const page = await browser.newPage();
    // Of another origin than the gateway that it speaks to.
    await page.goto(`${other.http}/healthz`);
    await page.addScriptTag({ content: bundle.outputFiles[0].text });
    await page.evaluate(([name, http]) => window.follow(name, http), [name, gateway.http]);
    pages.push({ name, page, got: () => page.evaluate(() => window.got) });
  }
  const all = (condition, what, ms) =>
    until(async () => (await Promise.all(pages.map(async ({ got }) => condition(await got())))).every(Boolean), what, ms);
  const count = ({ statuses }) => statuses.filter((status) => status === 'SUBSCRIBED').length;
  await all((got) => count(got) === 1, 'all are subscribed');

  await site.sql(`insert into orders values (1, 'größer')`);
  await site.sql('delete from orders');
  await all(({ changes }) => changes.length === 2, 'both changes');
  for (const { got } of pages) {
    const changes = (await got()).changes.map(({ commit_timestamp, ...rest }) => rest);
    const row = { id: 1, note: 'größer' };
    const of = (eventType, rest) => ({ schema: 'public', table: 'orders', eventType, new: {}, old: {}, errors: null, ...rest });
    assert.deepEqual(changes, [of('INSERT', { new: row }), of('DELETE', { old: row })]);
  }

  let sent = 0;
  for (const { page } of pages) {
    const payload = { sent: ++sent };
    assert.equal(await page.evaluate((payload) => channel.send({ type: 'broadcast', event: 'hi', payload }), payload), 'ok');
    await all(({ broadcasts }) => broadcasts.at(-1)?.sent === sent, 'a broadcast');
  }
  // With a preflight, for it goes to another origin.
  assert.deepEqual(await pages[1].page.evaluate(() => channel.httpSend('hi', { sent: 'http' })), { success: true });
  await all(({ broadcasts }) => broadcasts.at(-1).sent === 'http', 'a broadcast over HTTP');

  await gateway.end('SIGKILL');
  await all(({ statuses }) => statuses.includes('CHANNEL_ERROR'), 'all have noticed');
  await site.sql('insert into orders values (2)');
  await gateway.start();
  await all((got) => count(got) === 2, 'all are back', 30_000);
  await site.sql('insert into orders values (3)');
  await all(({ changes }) => changes.length === 4, 'what was missed, and what came then');
  for (const { name, got } of pages) {
    const { changes, resets } = await got();
    assert.deepEqual([changes.map(({ new: row }) => row.id), resets], [[1, undefined, 2, 3], 0], name);
  }
});
