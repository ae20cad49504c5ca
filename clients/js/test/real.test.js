// Against real gateways, with everything between them and the rows.

import assert from 'node:assert/strict';
import test from 'node:test';
import { connect } from '../src/index.js';
import { WebSocket, sleep, until } from './fake.js';
import { Site } from './site.js';
import { auth, secret, token } from './tokens.js';

// More of both: `make torture-js`.
const CLIENTS = Number(process.env.ROWCAST_CLIENTS ?? 50);
const FAULTS = Number(process.env.ROWCAST_FAULTS ?? 10);
const LATE_MS = 30_000;

/** The same strikes again for the same seed (ROWCAST_SEED). */
function dice(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test(`${CLIENTS} clients see every row once and in order, through ${FAULTS} faults`, async (t) => {
  const site = await Site.start(t);
  await site.serve('create table numbers (n bigint primary key); create table states (id int primary key, n bigint)', 'numbers', 'states');
  const seed = Number(process.env.ROWCAST_SEED ?? Date.now() % 1e6);
  const roll = dice(seed);
  const count = { lost: 0, repeated: 0, resets: 0, waits: 0, delivered: 0 };
  const clients = [];
  const followers = [];
  const tables = [];
  for (let i = 0; i < CLIENTS; i++) {
    const rc = connect('ws://gateways/rowcast', { WebSocket: site.WebSocket, watermarkMs: 5_000, mostRetryMs: 2_000 });
    t.after(() => rc.close());
    rc.onStatus(({ state }) => state === 'waiting' && count.waits++);
    clients.push(rc);
    if (i % 10 === 0) {
      tables.push(rc.live('public.states', { initial: () => site.rows('states'), onReset: () => count.resets++ }));
      continue;
    }
    const follower = { last: 0 };
    followers.push(follower);
    const take = ({ data: { n } }) => {
      count.delivered++;
      if (n <= follower.last) count.repeated++;
      else count.lost += n - follower.last - 1;
      follower.last = Math.max(follower.last, n);
    };
    const onReset = () => count.resets++;
    if (i % 10 === 1) {
      // A loop that is slow, and so is paused now and then.
      const loop = async () => {
        for await (const change of rc.changes('public.numbers', { limit: 20, onReset })) {
          take(change);
          if (change.data.n % 50 === 0) await sleep(20);
        }
      };
      loop().catch((error) => assert.fail(error));
    } else {
      rc.subscribe('public.numbers', take, { onReset });
    }
  }
  const allLive = () => clients.every((rc) => rc.status.state === 'live') && tables.every((table) => table.status.state === 'live');
  await until(allLive, 'all are live', LATE_MS);

  const writer = site.writer();
  let written = 0;
  const writing = setInterval(() => {
    const many = 1 + roll(6);
    writer.write(`insert into numbers select generate_series(${written + 1}, ${written + many});`);
    written += many;
    const id = roll(100);
    writer.write(roll(4) ? `insert into states values (${id}, ${written}) on conflict (id) do update set n = excluded.n;` : `delete from states where id = ${id};`);
    if (roll(200) === 0) writer.write('truncate states;');
  }, 10);

  const restarted = (part, signal) => async () => {
    await part.end(signal);
    await sleep(roll(800));
    await part.start();
  };
  const [one, other] = site.gateways;
  const strikes = [
    restarted(one, 'SIGKILL'),
    restarted(other, 'SIGKILL'),
    restarted(one, 'SIGTERM'),
    restarted(site.redis, 'SIGKILL'),
    restarted(site.redis, 'SIGTERM'),
    restarted(site.listener, 'SIGKILL'),
    async () => Promise.all([restarted(one, 'SIGKILL')(), restarted(other, 'SIGKILL')()]),
  ];
  for (let i = 0; i < FAULTS; i++) {
    await strikes[i < strikes.length ? i : roll(strikes.length)]();
    await sleep(300 + roll(900));
  }
  clearInterval(writing);
  await writer.end();

  const behind = () => followers.filter((follower) => follower.last < written).length;
  await until(() => behind() === 0, () => `${behind()} are behind`, LATE_MS).catch(() => {});
  await until(allLive, 'all are live again', LATE_MS);
  t.diagnostic(JSON.stringify({ seed, written, clients: CLIENTS, faults: FAULTS, ...count }));
  assert.deepEqual({ behind: behind(), ...count }, { ...count, behind: 0, lost: 0, repeated: 0, resets: 0 });
  assert.equal(count.delivered, written * followers.length);
  assert.ok(count.waits >= CLIENTS, 'connections were lost at all');
  const expected = JSON.stringify((await site.rows('states')).sort((a, b) => a.id - b.id));
  const shown = (table) => JSON.stringify([...table.rows.values()].sort((a, b) => a.id - b.id));
  await until(() => tables.every((table) => shown(table) === expected), 'the live tables are as the table', LATE_MS);
});

test('what a gateway serves and refuses today', async (t) => {
  const site = await Site.start(t);
  await site.serve('create table orders (id bigint primary key, total numeric)', 'orders');
  const rc = connect(site.gateways[0].http, { WebSocket });
  t.after(() => rc.close());

  await t.test('a filter is refused by name', async () => {
    const errors = [];
    const refused = rc.subscribe('public.orders', () => {}, { where: 'total=gt.5', onError: (error) => errors.push(error) });
    await until(() => refused.status.state === 'failed');
    assert.match(errors[0].message, /unsupported: 'where' is not served/);
  });
  await t.test('a topic that is misspelt is said, and tried again', async () => {
    const errors = [];
    const misspelt = rc.subscribe('public.ordres', () => {}, { onError: (error) => errors.push(error) });
    await until(() => errors.length === 1);
    assert.match(errors[0].message, /unknown_topic: .*public.ordres/);
    assert.equal(misspelt.status.state, 'waiting');
    misspelt.unsubscribe();
  });
  await t.test('changes conflated are states, the last of which is the last', async () => {
    const got = [];
    const subscription = rc.subscribe('public.orders', ({ data }) => got.push(data.total), { conflate: { every_ms: 100 } });
    await until(() => subscription.status.state === 'live');
    const writer = site.writer();
    writer.write('insert into orders values (1, 0);');
    for (let i = 1; i <= 500; i++) writer.write(`update orders set total = ${i} where id = 1;`);
    await writer.end();
    await until(() => got.at(-1) === 500);
    assert.ok(got.length < 100, `${got.length} frames for 501 changes`);
    subscription.unsubscribe();
  });
  await t.test('a cursor that was kept resumes in another client', async () => {
    const first = rc.subscribe('public.orders', () => {});
    await until(() => first.status.state === 'live');
    const since = first.cursor;
    first.unsubscribe();
    await site.sql('insert into orders select generate_series(10, 19)');
    const later = connect(site.gateways[1].url, { WebSocket });
    t.after(() => later.close());
    const ids = [];
    const answers = [];
    const resumed = later.subscribe('public.orders', ({ data }) => ids.push(data.id), { since, onSubscribed: (answer) => answers.push(answer) });
    await until(() => ids.length === 10 && resumed.status.state === 'live');
    assert.deepEqual(ids, [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    assert.equal(answers[0].resumed, true);
  });
  await t.test('a cursor of another time is a reset', async () => {
    const resets = [];
    const subscription = rc.subscribe('public.orders', () => {}, { since: 'k3f9abcd.7', onReset: (reset) => resets.push(reset.reason) });
    await until(() => resets.length === 1 && subscription.status.state === 'live');
    assert.deepEqual(resets, ['new_feed']);
  });
});

test('a token is renewed on the connection that lives, so that it outlives the first one', async (t) => {
  const site = await Site.start(t, { config: auth, env: { JWT_SECRET: secret } });
  await site.serve('create table orders (id bigint primary key)', 'orders');
  let asked = 0;
  const rc = connect(site.gateways[0].url, { WebSocket, token: async () => (asked++, token(3)) });
  t.after(() => rc.close());
  const states = [];
  rc.onStatus(({ state }) => states.push(state));
  const ids = [];
  const subscription = rc.subscribe('public.orders', ({ data }) => ids.push(data.id));
  await until(() => subscription.status.state === 'live');
  await sleep(7_000);
  await site.sql('insert into orders values (1)');
  await until(() => ids.length === 1);
  assert.ok(asked >= 3, `${asked} tokens in 7 s`);
  assert.ok(!states.includes('waiting'), states.join());

  const fixed = connect(site.gateways[0].url, { WebSocket, token: token(2) });
  t.after(() => fixed.close());
  fixed.subscribe('public.orders', () => {}, { onError: () => {} });
  await until(() => fixed.status.state === 'failed', 'a fixed token expires for good');
  assert.match(fixed.status.error.message, /unauthorized: the token has expired/);

  const none = connect(site.gateways[0].url, { WebSocket });
  none.subscribe('public.orders', () => {}, { onError: () => {} });
  await until(() => none.status.state === 'failed');
  assert.equal(none.status.error.code, 'unauthorized');

  const errors = [];
  const other = rc.subscribe('public.secrets', () => {}, { onError: (error) => errors.push(error.code) });
  await until(() => other.status.state === 'failed');
  assert.deepEqual(errors, ['forbidden']);
});
