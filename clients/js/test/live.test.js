// Tables kept current: subscribe, load, and what came meanwhile on top.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Gateway, until } from './fake.js';

let offset = 100;
const row = (peer, op, data, more = {}) =>
  peer.say({ type: 'change', route: 1, cursor: `f.${++offset}`, topic: 'public.t', op, key: ['id'], data, at: '', tx: `${offset}`, tx_end: true, ...more });

/** A loader that answers when the test says so. */
function loader() {
  const waiting = [];
  const initial = () => new Promise((resolve, reject) => waiting.push({ resolve, reject }));
  return { initial, next: () => until(() => waiting.shift(), 'a load'), waiting };
}

test('what comes during the load is put on top of it, by key', async (t) => {
  const gateway = await Gateway.start(t);
  const { initial, next, waiting } = loader();
  const told = [];
  const states = [];
  const live = gateway.client().live('public.t', { initial, onChange: (rows) => told.push(rows.size), onStatus: ({ state }) => states.push(state) });
  assert.equal(waiting.length, 0, 'not before it is subscribed');
  const { peer } = await gateway.subscribed();
  const load = await next();
  row(peer, 'UPDATE', { id: 1, n: 'new' }, { old: { id: 1 } });
  row(peer, 'DELETE', null, { old: { id: 2 } });
  row(peer, 'INSERT', { id: 4, n: 'inserted' });
  row(peer, 'UPDATE', { id: 9, n: 'renamed' }, { old: { id: 3 } });
  await until(() => live.status.state === 'catching up');
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual([live.rows.size, told], [0, []], 'nothing is shown before the load');
  load.resolve([{ id: '1', n: 'old' }, { id: 2 }, { id: 3 }, { id: 5 }]);
  await until(() => live.status.state === 'live');
  assert.deepEqual([...live.rows], [
    ['1', { id: 1, n: 'new' }],
    ['5', { id: 5 }],
    ['4', { id: 4, n: 'inserted' }],
    ['9', { id: 9, n: 'renamed' }],
  ]);
  row(peer, 'UPDATE', { id: 5, n: 'last' }, { old: { id: 5 } });
  await until(() => told.length === 2);
  assert.deepEqual([...live.rows.keys()], ['1', '5', '4', '9'], 'a row keeps its place');
  row(peer, 'TRUNCATE', null);
  row(peer, 'INSERT', { id: 6 });
  await until(() => live.rows.size === 1 && live.rows.has('6'));
  assert.deepEqual(states, ['connecting', 'catching up', 'live']);
});

test('a truncate during the load empties what was loaded', async (t) => {
  const gateway = await Gateway.start(t);
  const { initial, next } = loader();
  const live = gateway.client().live('public.t', { initial });
  const { peer } = await gateway.subscribed();
  const load = await next();
  row(peer, 'INSERT', { id: 1 });
  row(peer, 'TRUNCATE', null);
  row(peer, 'INSERT', { id: 2 });
  const end = `f.${offset}`;
  await new Promise((resolve) => setTimeout(resolve, 50));
  load.resolve([{ id: 1 }, { id: 7 }]);
  await until(() => live.status.state === 'live', end);
  assert.deepEqual([...live.rows.keys()], ['2']);
});

test('a reset loads again, and what an earlier load still brings does not count', async (t) => {
  const gateway = await Gateway.start(t);
  const { initial, next } = loader();
  const live = gateway.client().live('public.t', { initial });
  const { peer, asked } = await gateway.subscribed();
  const stale = await next();
  peer.say({ type: 'reset', id: asked.id, reason: 'too_slow', cursor: `f.${++offset}` });
  const fresh = await next();
  stale.resolve([{ id: 'stale' }]);
  fresh.resolve([{ id: 'fresh' }]);
  await until(() => live.status.state === 'live');
  assert.deepEqual([...live.rows.keys()], ['fresh']);
  row(peer, 'TRUNCATE', { partition: 'public.t_1' });
  (await next()).resolve([{ id: 'left' }]);
  await until(() => live.rows.has('left') && live.rows.size === 1, 'one partition was emptied: loaded again');
});

test('a connection that is lost during the load, or after it, loads nothing again', async (t) => {
  const gateway = await Gateway.start(t);
  const { initial, next, waiting } = loader();
  const live = gateway.client().live('public.t', { initial });
  const first = await gateway.subscribed({ cursor: `f.${offset}` });
  const load = await next();
  first.peer.socket.terminate();
  const second = await gateway.subscribed();
  row(second.peer, 'INSERT', { id: 2 });
  load.resolve([{ id: 1 }]);
  await until(() => live.rows.size === 2);
  second.peer.socket.terminate();
  const third = await gateway.subscribed();
  row(third.peer, 'DELETE', null, { old: { id: 1 } });
  await until(() => live.rows.size === 1);
  assert.equal(waiting.length, 0);
});

test('a load that fails is tried again, and says so meanwhile', async (t) => {
  const gateway = await Gateway.start(t);
  const { initial, next } = loader();
  const errors = [];
  const live = gateway.client().live('public.t', { initial, onError: (error) => errors.push(error.code) });
  await gateway.subscribed();
  (await next()).reject(new Error('503'));
  await until(() => live.status.state === 'waiting');
  (await next()).resolve([{ id: 1 }]);
  await until(() => live.status.state === 'live');
  assert.deepEqual(errors, ['load_failed']);
});

test('no transaction is shown by halves', async (t) => {
  const gateway = await Gateway.start(t);
  const told = [];
  const live = gateway.client().live('public.t', { initial: () => [], onChange: (rows) => told.push(rows.size) });
  const { peer } = await gateway.subscribed();
  await until(() => live.status.state === 'live');
  row(peer, 'INSERT', { id: 1 }, { tx: '5', tx_end: undefined });
  row(peer, 'INSERT', { id: 2 }, { tx: '5' });
  row(peer, 'INSERT', { id: 3 }, { tx: '6', tx_end: undefined });
  row(peer, 'INSERT', { id: 4 }, { tx: '6', tx_end: undefined });
  peer.say({ type: 'tx_end', route: 1, cursor: `f.${offset}`, tx: '6' });
  await until(() => told.length === 3);
  assert.deepEqual(told, [0, 2, 4]);
});

test('keys of several columns, of a function; and what has none fails with the reason', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  const errors = [];
  const onError = (error) => errors.push(error.code);
  const initial = () => [{ a: 1, b: 'x' }];
  const pair = rc.live('public.t', { key: ['a', 'b'], initial });
  const own = rc.live('public.t', { key: (row) => `${row.a}/${row.b}`, initial });
  const wrong = rc.live('public.t', { key: 'idd', initial, onError });
  const payloads = rc.live('public.t', { key: 'a', initial, onError });
  const peer = await gateway.next();
  for (const route of [1, 2, 3, 4]) await peer.answer({ route });
  await until(() => wrong.status.state === 'failed' && payloads.rows.size === 1);
  assert.match(wrong.status.error.message, /no key 'idd' in {"a":1,"b":"x"}/);
  assert.deepEqual([[...pair.rows.keys()], [...own.rows.keys()]], [['["1","x"]'], ['1/x']]);
  peer.say({ type: 'change', route: 4, cursor: 'f.1', topic: 'n', data: {}, at: '' });
  await until(() => payloads.status.state === 'failed');
  row(peer, 'DELETE', null, { route: 2 });
  await until(() => own.status.state === 'failed');
  assert.match(own.status.error.message, /watched without old keys/);
  assert.deepEqual(errors, ['bad_key', 'no_key']);
});
