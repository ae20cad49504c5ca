// Connections that are dead without having been closed. These take as long as a client waits.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Gateway, sleep, until } from './fake.js';

const WAIT_MS = 20_000;

test('watermarks that tell nothing new are of a gateway that hears nothing, and that is not called live', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  const states = { f: [], g: [] };
  const follow = (feed) => rc.subscribe(feed, () => {}, { onStatus: ({ state, error }) => states[feed].push(error?.code ?? state) });
  follow('f');
  follow('g');
  const peer = await gateway.next();
  await peer.answer({ route: 1, cursor: 'f.1' });
  await peer.answer({ route: 2, cursor: 'g.1' });
  const mark = (cursor, at) => peer.say({ type: 'watermark', cursor, at });
  await until(() => rc.status.state === 'live');
  mark('f.1', '10:00:00');
  mark('g.1', '10:00:00');
  mark('f.1', '10:00:05');
  mark('g.1', '10:00:00');
  await until(() => states.g.at(-1) === 'stalled');
  assert.deepEqual([rc.status.state, states.f.at(-1)], ['catching up', 'live']);

  mark('g.1', '10:00:09');
  await until(() => rc.status.state === 'live');
  mark('g.1', '10:00:09');
  await until(() => states.g.at(-1) === 'stalled');
  const late = rc.subscribe('late', () => {});
  await peer.answer({ route: 3, cursor: 'g.1' });
  await until(() => late.status.error?.code === 'stalled', 'one that comes later is told, too');
  late.unsubscribe();
  // The first change after that is not the last that was missed.
  for (const offset of [2, 3]) peer.say({ type: 'change', route: 2, cursor: `g.${offset}`, topic: 'g', data: 1, at: '' });
  await until(() => states.g.at(-1) === 'catching up');
  await until(() => peer.pong() === 1);
  // It went on meanwhile, so that was not all.
  peer.say({ type: 'change', route: 2, cursor: 'g.4', topic: 'g', data: 1, at: '' });
  await until(() => peer.pong() === 1);
  await sleep(50);
  assert.equal(rc.status.state, 'catching up');
  await until(() => (peer.pong(), rc.status.state === 'live'));

  // Another connection is of another gateway.
  mark('f.1', '10:00:20');
  await until(() => states.f.at(-1) === 'live');
  peer.socket.terminate();
  const next = await gateway.next();
  for (const route of [1, 2]) await next.answer({ route });
  next.say({ type: 'watermark', cursor: 'f.1', at: '10:00:20' });
  await until(() => states.f.at(-1) === 'live');
  assert.ok(!states.f.includes('stalled'), states.f.join());
});

test('missed watermarks, and a ping that nobody answers, end a connection', { concurrency: true }, async (t) => {
  await Promise.all([
    t.test('silent', async (t) => {
      const gateway = await Gateway.start(t);
      const rc = gateway.client({ watermarkMs: 100 });
      rc.subscribe('t', () => {}, { since: 'f.1' });
      const first = await gateway.subscribed({ resumed: false });
      assert.deepEqual(first.asked.watermark, { every_ms: 100 });
      first.peer.mute = true;
      const begun = Date.now();
      await until(() => rc.status.state === 'waiting', 'it was noticed', WAIT_MS);
      assert.match(rc.status.error.message, /fell silent/);
      assert.ok(Date.now() - begun > 9_000);
      const second = await gateway.subscribed();
      assert.equal(second.asked.since, 'f.1');
    }),
    t.test('quiet, but there', async (t) => {
      const gateway = await Gateway.start(t);
      const rc = gateway.client({ watermarkMs: 100 });
      rc.subscribe('t', () => {});
      const { peer } = await gateway.subscribed();
      let pongs = 0;
      await until(() => (pongs += peer.pong()) > 0, 'a ping', WAIT_MS);
      await sleep(6_000);
      assert.deepEqual([gateway.connections, rc.status.state], [1, 'live']);
    }),
  ]);
});
