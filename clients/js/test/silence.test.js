// Connections that are dead without having been closed. These take as long as a client waits.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Gateway, sleep, until } from './fake.js';

const WAIT_MS = 20_000;

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
