// Supabase's clients through faults of everything that stands between them and the rows.

import assert from 'node:assert/strict';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { Site } from '../../../clients/js/test/site.js';
import { clients, end, until } from './clients.js';

const EACH = 4;
const LATE_MS = 40_000;

/** As an application does that does not resume: it loads the table when it is subscribed, and applies what comes. */
function table(client, site) {
  const rows = new Map();
  const set = ({ id, n }) => rows.set(id, Math.max(n, rows.get(id) ?? 0));
  const it = { rows, statuses: [], loads: 0 };
  client
    .channel('states')
    .on('postgres_changes', { event: '*', schema: 'public', table: 'states' }, ({ new: row }) => set(row))
    .subscribe(async (status) => {
      it.statuses.push(status);
      if (status !== 'SUBSCRIBED') return;
      // PostgreSQL may be what is away.
      for (let loaded; !loaded; ) {
        loaded = await site.rows('states').catch(() => sleep(100));
        loaded?.forEach(set);
      }
      it.loads++;
    });
  return it;
}

/** One that resumes: it counts what it gets. */
function follower(client) {
  const it = { last: 0, lost: 0, again: 0, resets: 0, statuses: [] };
  const channel = client.channel('numbers');
  channel
    .on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'numbers' }, ({ new: { n } }) => {
      if (n <= it.last) it.again++;
      else it.lost += n - it.last - 1;
      // What was just had may come once more, and nothing else.
      if (n < it.last) it.lost = NaN;
      it.last = n;
    })
    .on('system', {}, ({ cursor, reset }) => {
      if (reset) it.resets++;
      if (cursor) channel.updateJoinPayload({ resume: cursor });
    });
  channel.updateJoinPayload({ resume: '' });
  channel.subscribe((status) => it.statuses.push(status));
  return it;
}

test('who resumes misses nothing, and who loads anew ends with the table', async (t) => {
  const site = await Site.start(t);
  await site.serve('create table numbers (n bigint primary key); create table states (id int primary key, n bigint)', 'numbers', 'states');
  const hosts = site.gateways.map(({ http }) => new URL(http).host);
  // As a load balancer would.
  class transport extends WebSocket {
    constructor(url, ...rest) {
      super(String(url).replace(hosts[0], hosts[Math.floor(Math.random() * hosts.length)]), ...rest);
    }
  }
  const [followers, tables] = [[], []];
  for (const make of Object.values(clients)) {
    for (let count = 0; count < EACH; count++) {
      const client = make(site.gateways[0].http, { transport });
      t.after(() => end(client));
      followers.push(follower(client));
      tables.push(table(client, site));
    }
  }
  const isLive = ({ statuses }) => statuses.at(-1) === 'SUBSCRIBED';
  const allLive = () => [...followers, ...tables].every(isLive);
  await until(allLive, 'all are subscribed', LATE_MS);

  const session = site.writer();
  let written = 0;
  const write = () => {
    session.write(`insert into numbers values (${++written}); insert into states values (${written % 50}, ${written}) on conflict (id) do update set n = excluded.n;`);
  };
  const writing = setInterval(write, 10);
  const restarted = (part, signal) => async () => {
    await part.end(signal);
    await sleep(300);
    await part.start();
  };
  const [one, two] = site.gateways;
  for (const fault of [
    restarted(one, 'SIGKILL'),
    restarted(site.redis, 'SIGKILL'),
    restarted(site.listener, 'SIGKILL'),
    restarted(two, 'SIGTERM'),
    restarted(one, 'SIGKILL'),
    restarted(site.listener, 'SIGTERM'),
  ]) {
    await fault();
    await until(allLive, () => `all are back: ${followers.map(({ statuses }) => statuses.at(-1))}`, LATE_MS);
    await sleep(500);
  }
  clearInterval(writing);
  await session.end();
  await until(() => followers.every(({ last }) => last === written), () => `all ${written}: ${followers.map(({ last }) => last)}`, LATE_MS);
  const states = new Map((await site.rows('states')).map(({ id, n }) => [id, n]));
  await until(() => tables.every(({ rows }) => [...states].every(([id, n]) => rows.get(id) === n)), 'each has the table', LATE_MS);

  assert.deepEqual(followers.map(({ lost, resets }) => [lost, resets]), followers.map(() => [0, 0]));
  assert.ok(followers.some(({ statuses }) => statuses.includes('CHANNEL_ERROR')), 'some were away');
  assert.ok(followers.reduce((sum, { again }) => sum + again, 0) <= followers.length, 'hardly anything comes again');
  t.diagnostic(`${followers.length} followers, ${written} rows, ${followers.reduce((sum, { again }) => sum + again, 0)} came again`);
});
