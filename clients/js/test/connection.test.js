// When a client comes again, when it does not, and that it says so.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { Backoff, closeOf, connect, retryHint } from '../src/index.js';
import { Gateway, WebSocket, jwt, sleep, until } from './fake.js';

const statuses = (rc) => {
  const seen = [];
  rc.onStatus(({ state }) => seen.at(-1) === state || seen.push(state));
  return seen;
};

test('the rules after a close are those of the protocol', () => {
  const source = readFileSync(new URL('../../../crates/protocol/src/close.rs', import.meta.url), 'utf8');
  const rows = [...source.matchAll(/=> \((\d+), "(\w+)", Reconnect::(\w+)\)/g)];
  assert.ok(rows.length >= 10);
  const rules = { No: 'stop', AfterMending: 'stop', AfterNewToken: 'new token', Yes: 'again' };
  for (const [, code, name, rule] of rows) {
    assert.equal(closeOf(Number(code))[1], rules[rule], code);
    if (rule !== 'Yes') assert.equal(closeOf(Number(code))[0], name);
  }
  for (const code of [1001, 1005, 1006, 1011]) assert.equal(closeOf(code)[1], 'again');
});

test('waits double up to the longest, and are spread over all of it', () => {
  for (const [attempt, most] of [[0, 100], [1, 200], [2, 400], [3, 500], [2000, 500]]) {
    const waits = Array.from({ length: 300 }, () => {
      const backoff = new Backoff(100, 500);
      for (let i = 0; i < attempt; i++) backoff.next();
      return backoff.next();
    });
    assert.ok(waits.every((wait) => wait >= 0 && wait <= most), String(most));
    assert.ok(Math.min(...waits) < most * 0.1 && Math.max(...waits) > most * 0.9);
  }
});

test('a hint is taken as it is, and nonsense is none', () => {
  assert.equal(retryHint('{"retry_ms":120}'), 120);
  assert.equal(retryHint('{"retry_ms":1e12}'), 60_000);
  for (const reason of ['', 'restart', '{}', '{"retry_ms":-1}', '{"retry_ms":"x"}', 'null']) assert.equal(retryHint(reason), undefined, reason);
});

test('a gateway that leaves says when to come again', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client({ firstRetryMs: 60_000, mostRetryMs: 60_000 });
  const subscription = rc.subscribe('t', () => {});
  const { peer } = await gateway.subscribed();
  const before = Date.now();
  peer.socket.close(1012, '{"retry_ms":200}');
  await until(() => rc.status.state === 'waiting');
  assert.ok(Math.abs(rc.status.retryAt - before - 200) < 100);
  assert.equal(subscription.status.state, 'waiting');
  await gateway.subscribed();
  assert.ok(Date.now() - before >= 195);
});

for (const code of [1000, 1002, 1003, 1007, 1009, 4401, 4403, 4429]) {
  test(`close ${code} ends it, with the reason`, async (t) => {
    const gateway = await Gateway.start(t);
    const rc = gateway.client({ token: code > 4400 && code < 4404 ? 'fixed' : undefined });
    const errors = [];
    const subscription = rc.subscribe('t', () => {}, { onError: (error) => errors.push(error) });
    const peer = await gateway.next();
    if (code === 4401 || code === 4403) {
      await peer.hear('auth');
      peer.say({ type: 'authenticated' });
    }
    await peer.answer();
    peer.socket.close(code, 'because');
    await until(() => rc.status.state === 'failed');
    assert.equal(rc.status.error.code, closeOf(code)[0]);
    assert.match(rc.status.error.message, /because/);
    assert.deepEqual(errors, [rc.status.error]);
    assert.equal(subscription.status.state, 'failed');
    assert.throws(() => rc.subscribe('t', () => {}), { code: closeOf(code)[0] });
    await sleep(150);
    assert.equal(gateway.connections, 1);
  });
}

for (const code of [1001, 1011, 1012, 1013]) {
  test(`after close ${code} it comes again`, async (t) => {
    const gateway = await Gateway.start(t);
    gateway.client().subscribe('t', () => {});
    const { peer } = await gateway.subscribed();
    peer.socket.close(code);
    await gateway.subscribed();
  });
}

test('the status is true from the first to the last', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  assert.equal(rc.status.state, 'closed');
  const seen = statuses(rc);
  const own = [];
  const subscription = rc.subscribe('public.t', () => {}, { onStatus: ({ state }) => own.push(state) });
  const first = await gateway.subscribed();
  await until(() => rc.status.state === 'live');
  assert.equal(rc.status.gateway, 'fake');
  first.peer.socket.terminate();
  const peer = await gateway.next();
  const asked = await peer.answer({ caughtUp: false });
  peer.change([1, 2], { id: asked.id });
  await until(() => subscription.cursor === 'f.2');
  assert.equal(rc.status.state, 'catching up');
  peer.caughtUp(asked, 'f.5');
  await until(() => rc.status.state === 'live');
  assert.equal(subscription.cursor, 'f.5');
  peer.change(6, { id: asked.id });
  await until(() => rc.status.state === 'catching up', 'one that reads too slowly is behind again');
  peer.caughtUp(asked, 'f.6');
  await until(() => rc.status.state === 'live');
  rc.close();
  const steps = ['connecting', 'catching up', 'live', 'waiting', 'connecting', 'catching up', 'live', 'catching up', 'live', 'closed'];
  assert.deepEqual(seen, steps);
  assert.deepEqual(own, steps);
});

test('nobody subscribed, nobody connected; and a connection outlives its last subscription by a second', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  await sleep(50);
  assert.equal(gateway.connections, 0);
  rc.subscribe('t', () => {}).unsubscribe();
  rc.subscribe('t', () => {}).unsubscribe();
  const peer = await gateway.next();
  await until(() => peer.isClosed);
  assert.equal(rc.status.state, 'closed');
  assert.equal(gateway.connections, 1);
  rc.subscribe('t', () => {});
  await gateway.subscribed();
});

test('a key that the gateway does not serve is said by name', async (t) => {
  const gateway = await Gateway.start(t);
  const errors = [];
  const rc = gateway.client();
  const subscription = rc.subscribe('t', () => {}, { where: 'a=eq.1', columns: ['a'], ops: ['INSERT'], onError: (error) => errors.push(error) });
  const peer = await gateway.next();
  const { id, where, columns, ops } = await peer.hear('subscribe');
  assert.deepEqual([where, columns, ops], ['a=eq.1', ['a'], ['INSERT']]);
  peer.say({ type: 'error', id, code: 'unsupported', message: "'where' is not served by this gateway" });
  await until(() => subscription.status.state === 'failed');
  assert.match(errors[0].message, /unsupported: 'where' is not served/);
  assert.equal(errors[0].temporary, false);
  assert.equal(rc.status.state, 'live', 'the others are not concerned');
});

test('a refusal that may pass is tried again, and a topic that is not there is said once', async (t) => {
  const gateway = await Gateway.start(t);
  const errors = [];
  const subscription = gateway.client().subscribe('t', () => {}, { onError: (error) => errors.push(error.code) });
  const peer = await gateway.next();
  for (const code of ['not_ready', 'unknown_topic', 'unknown_topic']) {
    const { id } = await peer.hear('subscribe');
    peer.say({ type: 'error', id, code, message: '…' });
    await until(() => subscription.status.state === 'waiting');
    assert.ok(subscription.status.retryAt > Date.now());
    await until(() => subscription.status.state === 'catching up', 'it asks again', 10_000);
  }
  await peer.answer();
  await until(() => subscription.status.state === 'live');
  assert.deepEqual(errors, ['unknown_topic']);
});

test('a token is shown first, renewed before it expires, and on the connection that lives', async (t) => {
  const gateway = await Gateway.start(t);
  const given = [];
  const rc = gateway.client({ token: async () => given[given.push(jwt(2_000 + given.length * 60_000, `${given.length}`)) - 1] });
  rc.subscribe('t', () => {});
  const peer = await gateway.next();
  assert.equal((await peer.hear('auth')).token, given[0]);
  peer.say({ type: 'authenticated' });
  await peer.answer();
  const shown = await peer.hear('auth');
  assert.equal(shown.token, given[1]);
  assert.notEqual(given[0], given[1]);
  peer.say({ type: 'authenticated' });
  await sleep(100);
  assert.deepEqual([rc.status.state, gateway.connections], ['live', 1]);
  peer.socket.terminate();
  const again = await gateway.next();
  assert.equal((await again.hear('auth')).token, given[1], 'one that is still good is shown again');
});

test('a refused token is replaced, at once or after the close; and not without end', async (t) => {
  const gateway = await Gateway.start(t);
  let asked = 0;
  const rc = gateway.client({ token: () => `t${++asked}` });
  const errors = [];
  rc.subscribe('t', () => {}, { onError: (error) => errors.push(error.code) });
  const peer = await gateway.next();
  assert.equal((await peer.hear('auth')).token, 't1');
  peer.say({ type: 'error', code: 'bad_token', message: 'no' });
  assert.equal((await peer.hear('auth')).token, 't2');
  peer.say({ type: 'authenticated' });
  await peer.answer();
  peer.socket.close(4401, 'the token has expired');
  const second = await gateway.next();
  assert.equal((await second.hear('auth')).token, 't3');
  second.say({ type: 'error', code: 'bad_token', message: 'no' });
  assert.equal((await second.hear('auth')).token, 't4');
  second.say({ type: 'error', code: 'bad_token', message: 'never' });
  await until(() => rc.status.state === 'failed');
  assert.deepEqual([errors, rc.status.error.code, asked], [['bad_token'], 'bad_token', 4]);
});

test('without a token, and one is needed: it fails at once', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client();
  rc.subscribe('t', () => {}, { onError: () => {} });
  const peer = await gateway.next();
  const { id } = await peer.hear('subscribe');
  peer.say({ type: 'error', id, code: 'unauthorized', message: 'send auth first' });
  await until(() => rc.status.state === 'failed');
  assert.match(rc.status.error.message, /unauthorized: send auth first/);
});

test('an application that cannot give a token now is asked again', async (t) => {
  const gateway = await Gateway.start(t);
  let asked = 0;
  const rc = gateway.client({
    token: async () => {
      if (++asked < 3) throw new Error('offline');
      return 'good';
    },
  });
  const seen = statuses(rc);
  rc.subscribe('t', () => {});
  const peer = await gateway.next();
  assert.equal((await peer.hear('auth')).token, 'good');
  assert.deepEqual(seen, ['connecting', 'waiting', 'connecting', 'waiting', 'connecting']);
});

test('a gateway without [auth] takes no token, and is used all the same', async (t) => {
  const gateway = await Gateway.start(t);
  const rc = gateway.client({ token: 'x' });
  rc.subscribe('t', () => {});
  const peer = await gateway.next();
  await peer.hear('auth');
  peer.say({ type: 'error', code: 'unsupported', message: 'this gateway has no [auth]' });
  await peer.answer();
  await until(() => rc.status.state === 'live');
});

test('it wakes at once when the network is back, or its tab is shown', async (t) => {
  const [network, tab] = [new EventTarget(), new EventTarget()];
  Object.assign(globalThis, {
    addEventListener: network.addEventListener.bind(network),
    removeEventListener: network.removeEventListener.bind(network),
    document: tab,
  });
  t.after(() => ['addEventListener', 'removeEventListener', 'document'].forEach((name) => delete globalThis[name]));
  const gateway = await Gateway.start(t);
  const rc = gateway.client({ firstRetryMs: 1e9, mostRetryMs: 1e9 });
  rc.subscribe('t', () => {});
  let { peer } = await gateway.subscribed();
  const events = [
    () => network.dispatchEvent(new Event('online')),
    () => tab.dispatchEvent(new Event('visibilitychange')),
  ];
  for (const wake of events) {
    peer.socket.terminate();
    await until(() => rc.status.state === 'waiting');
    wake();
    ({ peer } = await gateway.subscribed());
  }
  tab.visibilityState = 'hidden';
  peer.socket.terminate();
  await until(() => rc.status.state === 'waiting');
  events[1]();
  await sleep(50);
  assert.equal(rc.status.state, 'waiting');
});

test('no WebSocket, a wrong path and a wrong address are said in words', async (t) => {
  const own = globalThis.WebSocket;
  delete globalThis.WebSocket;
  t.after(() => own && (globalThis.WebSocket = own));
  const rc = connect('ws://127.0.0.1:1/rowcast');
  assert.throws(() => rc.subscribe('t', () => {}), /connect\(url, \{ WebSocket \}\) with that of package 'ws'/);

  const gateway = await Gateway.start(t);
  const plain = gateway.client();
  plain.subscribe('t', () => {}, { onError: () => {} });
  await until(() => gateway.server.clients.size === 1);
  for (const socket of gateway.server.clients) socket.send('{"table":"t"}');
  await until(() => plain.status.state === 'failed');
  assert.match(plain.status.error.message, /does not speak rowcast's native protocol/);

  const nowhere = connect('not a url', { WebSocket });
  nowhere.subscribe('t', () => {}, { onError: () => {} });
  await until(() => nowhere.status.state === 'failed');
  assert.equal(nowhere.status.error.code, 'bad_url');
});
