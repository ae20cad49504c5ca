// Many clients at once, against real gateways: they come back together, or are refused together.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { connect } from '../src/index.js';
import { WebSocket, sleep, until } from './fake.js';
import { Site } from './site.js';

const HERD = Number(process.env.ROWCAST_HERD ?? 5_000);
const BACK_WITHIN_MS = 10_000;
const SLICES = 10;
// `npm test` is of debug programs, which take three times as long for each.
const REFUSED = Number(process.env.ROWCAST_REFUSED ?? 100);
const SETTLES_MS = 30_000;
const WATCHED_MS = 10_000;

/** Processor time that a process has used, in ms. */
function cpuMs(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/.*\) /s, '').split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

test(`${HERD} clients whose gateway dies are back in time, and do not come as one`, async (t) => {
  const site = await Site.start(t);
  await site.serve('create table numbers (n bigint primary key)', 'numbers');
  const [dies, stays] = site.gateways;
  let url = dies.url;
  const Balanced = class extends WebSocket {
    constructor() {
      super(url);
    }
  };
  const clients = [];
  const got = [];
  const delays = [];
  for (let i = 0; i < HERD; i++) {
    const rc = connect('ws://gateways/rowcast', { WebSocket: Balanced });
    t.after(() => rc.close());
    clients.push(rc);
    got.push(0);
    rc.subscribe('public.numbers', ({ data: { n } }) => (got[i] = n === got[i] + 1 ? n : NaN));
    rc.onStatus(({ state, retryAt }) => state === 'waiting' && delays.push(retryAt - Date.now()));
    // As people open a page, not all in the same millisecond.
    if (i % 100 === 99) await until(() => rc.status.state === 'live', 'live', 30_000);
  }
  const away = () => clients.filter((rc) => rc.status.state !== 'live').length;
  await until(() => away() === 0, () => `${away()} are not live`, 30_000);
  await site.sql('insert into numbers values (1)');
  await until(() => got.every((n) => n === 1), 'all have the first row', 30_000);

  url = stays.url;
  await dies.end('SIGKILL');
  const died = performance.now();
  await site.sql('insert into numbers select generate_series(2, 11)');
  await until(() => delays.length >= HERD, 'all have noticed', BACK_WITHIN_MS);
  await until(() => away() === 0, () => `${away()} are not back`, BACK_WITHIN_MS);
  const back = performance.now() - died;
  assert.ok(back < BACK_WITHIN_MS, `back after ${back} ms`);
  await until(() => got.every((n) => n === 11), 'nothing is lost or out of order', 30_000);

  const first = delays.slice(0, HERD);
  const most = Math.max(...first);
  const slices = Array(SLICES).fill(0);
  first.forEach((delay) => slices[Math.min(SLICES - 1, Math.max(0, Math.floor((delay / most) * SLICES)))]++);
  t.diagnostic(JSON.stringify({ clients: HERD, backMs: Math.round(back), mostMs: Math.round(most), slices }));
  assert.ok(Math.max(...slices) <= (2 * HERD) / SLICES, `a tenth of the time has more than twice its share: ${slices}`);
});

test(`${REFUSED} clients that are refused, and ask again, cost a gateway next to nothing`, async (t) => {
  const site = await Site.start(t);
  await site.serve('create table numbers (n bigint primary key)', 'numbers');
  const [gateway] = site.gateways;
  const share = async () => {
    const before = cpuMs(gateway.child.pid);
    await sleep(WATCHED_MS);
    return (cpuMs(gateway.child.pid) - before) / WATCHED_MS;
  };
  const idle = await share();
  let refusals = 0;
  const clients = [];
  for (let i = 0; i < REFUSED; i++) {
    const rc = connect(gateway.url, { WebSocket });
    t.after(() => rc.close());
    const misspelt = rc.subscribe('public.nubmers', () => {}, { onError: () => {}, onStatus: ({ state }) => state === 'waiting' && refusals++ });
    clients.push(misspelt);
    if (i % 100 === 99) await until(() => misspelt.status.state === 'waiting', 'refused', 30_000);
  }
  // By then each waits as long as it ever does.
  await sleep(SETTLES_MS);
  const before = refusals;
  const busy = await share();
  t.diagnostic(JSON.stringify({ clients: REFUSED, refusalsEachSecond: ((refusals - before) * 1000) / WATCHED_MS, idle, busy }));
  assert.ok(refusals > before, 'they ask again');
  assert.ok(busy - idle < 0.01, `${busy} of a core, and ${idle} without them`);
});
