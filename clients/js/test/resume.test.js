// Once and in order, whatever a connection does.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Gateway, sleep, until } from './fake.js';

const offsets = (changes) => changes.map((change) => Number(change.cursor.split('.')[1]));

test('a subscription resumes from its last change, and what comes twice is delivered once', async (t) => {
  const gateway = await Gateway.start(t);
  const got = [];
  const resets = [];
  const rc = gateway.client();
  const subscription = rc.subscribe('public.t', (change) => got.push(change), { onReset: (reset) => resets.push(reset) });
  const first = await gateway.subscribed({ cursor: 'f.7' });
  assert.deepEqual(first.asked.topics, ['public.t']);
  assert.equal(first.asked.since, undefined);
  first.peer.change([8, 9]);
  await until(() => got.length === 2);
  first.peer.socket.terminate();
  const second = await gateway.subscribed();
  assert.equal(second.asked.since, 'f.9');
  second.peer.change([8, 9, 10], { id: second.asked.id });
  second.peer.change([10, 11]);
  await until(() => got.length === 4);
  assert.deepEqual(offsets(got), [8, 9, 10, 11]);
  assert.equal(subscription.cursor, 'f.11');
  assert.deepEqual(resets, []);
});

test('every subscription resumes from its own cursor, and a watermark moves those of its feed that are answered', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  const [a, b, other] = ['a', 'b', 'other'].map((topic) => rc.subscribe(topic, () => {}));
  const peer = await gateway.next();
  await peer.answer({ route: 1, cursor: 'f.1' });
  await peer.answer({ route: 2, cursor: 'f.1' });
  await peer.answer({ route: 3, cursor: 'n.50' });
  peer.change(5, { route: 2 });
  await until(() => b.cursor === 'f.5');
  assert.equal(a.cursor, 'f.1');
  const late = rc.subscribe('late', () => {}, { since: 'f.3' });
  const asked = await peer.hear('subscribe');
  peer.say({ type: 'watermark', cursor: 'f.9', at: '' });
  await until(() => a.cursor === 'f.9');
  assert.deepEqual([b.cursor, other.cursor, late.cursor], ['f.9', 'n.50', 'f.3']);
  assert.equal(asked.since, 'f.3');
  peer.socket.terminate();
  const again = await gateway.next();
  const sinces = [];
  for (let i = 0; i < 4; i++) sinces.push((await again.hear('subscribe')).since);
  assert.deepEqual(sinces, ['f.9', 'f.9', 'n.50', 'f.3']);
});

test('a reset is told only where the gateway says it, and the cursor before it is kept until then', async (t) => {
  const gateway = await Gateway.start(t);
  const resets = [];
  const got = [];
  const rc = gateway.client();
  const states = [];
  const onReset = (reset) => (resets.push(reset), states.push('reset'));
  rc.subscribe('public.t', (change) => got.push(change), { since: 'old.4', onReset, onStatus: ({ state }) => states.push(state) });
  const first = await gateway.subscribed({ resumed: false });
  first.peer.socket.terminate();
  const second = await gateway.subscribed({ resumed: false });
  assert.equal(second.asked.since, 'old.4');
  assert.deepEqual(resets, []);
  second.peer.say({ type: 'reset', id: second.asked.id, reason: 'new_feed', cursor: 'f.2' });
  second.peer.change(3);
  await until(() => got.length === 1);
  assert.deepEqual(resets.map(({ reason, cursor }) => [reason, cursor]), [['new_feed', 'f.2']]);
  assert.deepEqual(states.slice(-3), ['catching up', 'reset', 'live'], 'it is not live before it was told to load anew');
});

test('a change of another feed without a reset is not believed: the gateway is asked again', async (t) => {
  const gateway = await Gateway.start(t);
  const got = [];
  gateway.client().subscribe('public.t', (change) => got.push(change));
  const first = await gateway.subscribed({ cursor: 'other.7' });
  first.peer.change(8);
  const second = await gateway.subscribed();
  assert.equal(second.asked.since, 'other.7');
  assert.deepEqual(got, []);
});

test('changes conflated at one time share the cursor of the time before, and are all delivered', async (t) => {
  const gateway = await Gateway.start(t);
  const got = [];
  gateway.client().subscribe('public.t', (change) => got.push(change), { conflate: { every_ms: 250 } });
  const { peer, asked } = await gateway.subscribed({ cursor: 'f.7' });
  assert.deepEqual(asked.conflate, { every_ms: 250 });
  peer.change([7, 7, 12, 12, 15]);
  await until(() => got.length === 5);
  assert.deepEqual(offsets(got), [7, 7, 12, 12, 15]);
});

test('the end of a transaction that is told later is handed on, and kept as cursor', async (t) => {
  const gateway = await Gateway.start(t);
  const ends = [];
  const subscription = gateway.client().subscribe('public.t', () => {}, { onTxEnd: (end) => ends.push(end.tx) });
  const { peer } = await gateway.subscribed();
  peer.say({ type: 'tx_end', route: 1, cursor: 'f.9', tx: '7432' });
  await until(() => ends.length === 1);
  assert.equal(subscription.cursor, 'f.9');
});

test('what comes after unsubscribe is not delivered, and a new subscription on the same route is its own', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  const got = [];
  const first = rc.subscribe('public.t', () => got.push('first'));
  const { peer } = await gateway.subscribed();
  first.unsubscribe();
  rc.subscribe('public.t', () => got.push('second'));
  assert.equal((await peer.hear('unsubscribe')).id, '1');
  peer.change(1);
  await peer.answer({ cursor: 'f.1' });
  peer.change(2);
  await until(() => got.length === 1);
  assert.deepEqual(got, ['second']);
  assert.equal(gateway.connections, 1);
});

test('a callback that throws loses nothing for the others', async (t) => {
  const gateway = await Gateway.start(t);
  const thrown = [];
  const later = globalThis.queueMicrotask;
  globalThis.queueMicrotask = (task) => {
    try {
      task();
    } catch (error) {
      thrown.push(error.message);
    }
  };
  t.after(() => (globalThis.queueMicrotask = later));
  const got = [];
  gateway.client().subscribe('public.t', (change) => {
    got.push(change);
    if (got.length === 1) throw new Error('mine');
  });
  const { peer } = await gateway.subscribed();
  peer.change([1, 2]);
  await until(() => got.length === 2);
  assert.deepEqual(thrown, ['mine']);
});

test('only the tables that were asked for are delivered, of payloads and of watched tables', async (t) => {
  const gateway = await Gateway.start(t);
  const got = [];
  gateway.client().subscribe(['db_changes', 'public.t', 'public.u'], (change) => got.push(change.cursor), { tables: ['t', 'profiles'] });
  const { peer } = await gateway.subscribed();
  peer.change(1);
  peer.say({ type: 'change', route: 1, cursor: 'f.2', topic: 'public.u', op: 'INSERT', data: {}, at: '' });
  peer.say({ type: 'change', route: 1, cursor: 'f.3', topic: 'db_changes', data: { table: 'roles' }, at: '' });
  peer.say({ type: 'change', route: 1, cursor: 'f.4', topic: 'db_changes', data: { table: 'profiles', operation: 'INSERT' }, at: '' });
  await until(() => got.length === 2);
  assert.deepEqual(got, ['f.1', 'f.4']);
});

test('a loop gets every change, pauses the subscription at its limit, and goes on where it was', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  const loop = rc.changes('public.t', { limit: 3 });
  const next = loop.next();
  const { peer } = await gateway.subscribed();
  peer.change([1, 2, 3, 4, 5]);
  assert.equal((await next).value.cursor, 'f.1');
  await sleep(50);
  const got = [2, 3].map(async () => (await loop.next()).value.cursor);
  assert.deepEqual(await Promise.all(got), ['f.2', 'f.3']);
  const more = loop.next();
  // Paused once at least: 1 was taken at once, so 2, 3 and 4 may have filled it.
  const again = await until(async () => {
    const message = await peer.hear('unsubscribe');
    return message && peer.answer();
  });
  peer.change([1, 2, 3, 4, 5, 6].filter((offset) => offset > Number(again.since.split('.')[1])), { id: again.id });
  assert.equal((await more).value.cursor, 'f.4');
  assert.equal((await loop.next()).value.cursor, 'f.5');
  await loop.return();
  assert.equal(rc.status.state, 'live');
});

test('a loop ends with an error at a reset, or tells it in its place', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  const run = async (options) => {
    const seen = [];
    const done = (async () => {
      for await (const change of rc.changes('public.t', { ...options, onReset: options.onReset && (() => seen.push('reset')) })) {
        seen.push(change.cursor);
        if (change.cursor === 'f.9') break;
      }
    })();
    return { seen, done };
  };
  const strict = await run({});
  const { peer, asked } = await gateway.subscribed();
  peer.change(1);
  peer.say({ type: 'reset', id: asked.id, reason: 'too_slow', cursor: 'f.8' });
  await assert.rejects(strict.done, { code: 'reset' });
  assert.deepEqual(strict.seen, ['f.1']);
  await peer.hear('unsubscribe');
  const lenient = await run({ onReset: true });
  const second = await peer.answer();
  peer.change(1);
  peer.say({ type: 'reset', id: second.id, reason: 'too_slow', cursor: 'f.8' });
  peer.change(9);
  await lenient.done;
  assert.deepEqual(lenient.seen, ['f.1', 'reset', 'f.9']);
});
