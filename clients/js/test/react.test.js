// The hooks, as React runs them: Strict Mode, unmount while connecting, other arguments, and on a server.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';
import { StrictMode, createElement as h } from 'react';
import { renderToString } from 'react-dom/server';
import { create } from 'react-test-renderer';
import { WebSocketServer } from 'ws';
import { RowcastProvider, useChanges, useRows, useStatus, useTableChanges, useWebSocket } from '../src/react.js';
import { Gateway, WebSocket, sleep, until } from './fake.js';

const complaints = [];
console.error = (...words) => complaints.push(words.join(' '));
test.afterEach(() => {
  const own = complaints.splice(0).filter((line) => !line.includes('react-test-renderer is deprecated'));
  assert.deepEqual(own, [], 'React has nothing to complain about');
});

/** Rendered until the test ends, as React does it by itself: what sockets bring is no event of the test. */
async function mounted(t, element) {
  const root = create(h(StrictMode, null, element));
  await sleep(20);
  const page = {
    update: (next) => (root.update(h(StrictMode, null, next)), sleep(20)),
    unmount: () => root.unmount(),
    get text() {
      return JSON.stringify(root.toJSON());
    },
  };
  t.after(() => page.unmount());
  return page;
}

/** A plain endpoint. */
async function endpoint(t) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const seen = { url: `ws://127.0.0.1:${server.address().port}/ws/changes/`, opened: 0, sockets: server.clients };
  server.on('connection', () => seen.opened++);
  seen.say = (message) => server.clients.forEach((socket) => socket.send(typeof message === 'string' ? message : JSON.stringify(message)));
  t.after(() => (server.clients.forEach((socket) => socket.terminate()), server.close()));
  return seen;
}

test('useWebSocket keeps one connection over renders with new callbacks, and calls the last one', async (t) => {
  const server = await endpoint(t);
  const got = [];
  const Page = ({ name }) => {
    const { isConnected } = useWebSocket(server.url, { WebSocket, onMessage: (message) => got.push([name, message]) });
    return isConnected ? 'connected' : 'disconnected';
  };
  const page = await mounted(t, h(Page, { name: 'a' }));
  await until(() => page.text.includes('"connected"'));
  await page.update(h(Page, { name: 'b' }));
  server.say({ n: 1 });
  server.say('not JSON');
  await until(() => got.length === 2);
  assert.deepEqual(got, [['b', { n: 1 }], ['b', 'not JSON']]);
  assert.equal(server.opened, 1, 'also in Strict Mode');
  server.sockets.forEach((socket) => socket.terminate());
  await until(() => page.text.includes('disconnected'));
  await until(() => page.text.includes('"connected"'));
  assert.equal(server.opened, 2);
  await page.unmount();
  await until(() => server.sockets.size === 0);
});

test('useWebSocket with another URL leaves the first one', async (t) => {
  const [first, second] = [await endpoint(t), await endpoint(t)];
  const Page = ({ url }) => String(useWebSocket(url, { WebSocket }).isConnected);
  const page = await mounted(t, h(Page, { url: first.url }));
  await until(() => page.text.includes('true'));
  await page.update(h(Page, { url: second.url }));
  await until(() => first.sockets.size === 0 && second.sockets.size === 1 && page.text.includes('true'));
});

test('a component that is gone before it is connected leaves nothing behind', async (t) => {
  const server = await endpoint(t);
  const gateway = await Gateway.start(t);
  const Page = () => {
    useWebSocket(server.url, { WebSocket });
    useChanges('public.t', () => {});
    return null;
  };
  for (let i = 0; i < 8; i++) {
    const root = create(h(RowcastProvider, { url: gateway.url, WebSocket }, h(Page)));
    await sleep(i);
    root.unmount();
  }
  await until(() => server.sockets.size === 0 && gateway.server.clients.size === 0);
  await sleep(50);
  assert.equal(server.sockets.size + gateway.server.clients.size, 0);
});

test('useTableChanges is the recipe\'s: the messages of its tables, and no others', async (t) => {
  const server = await endpoint(t);
  const got = [];
  const Page = () => String(useTableChanges(['registrations', 'roles'], (change) => got.push(change), { url: server.url, WebSocket }).isConnected);
  const page = await mounted(t, h(Page));
  await until(() => page.text.includes('true'));
  const changes = ['profiles', 'roles', 'public.registrations'].map((table) => ({ table, operation: 'INSERT', data: { id: 1 } }));
  changes.forEach(server.say);
  await until(() => got.length === 2);
  assert.deepEqual(got, changes.slice(1));
});

test('useChanges subscribes once, whatever is rendered, and anew for another topic', async (t) => {
  const gateway = await Gateway.start(t);
  const got = [];
  const Page = ({ topic, name }) => useChanges(topic, (change) => got.push([name, change.data.id]), { conflate: { every_ms: 50 } }).state;
  const shown = (props) => h(RowcastProvider, { url: gateway.url, WebSocket, token: () => null }, h(Page, props));
  const page = await mounted(t, shown({ topic: 'public.t', name: 'a' }));
  const peer = await gateway.next();
  const asked = await peer.answer({ route: 1 });
  assert.deepEqual([asked.topics, asked.conflate], [['public.t'], { every_ms: 50 }]);
  await until(() => page.text.includes('live'));
  await page.update(shown({ topic: 'public.t', name: 'b' }));
  peer.change(1);
  await until(() => got.length === 1);
  assert.deepEqual(got, [['b', 1]]);
  await page.update(shown({ topic: 'public.u', name: 'c' }));
  assert.ok(!page.text.includes('live'), 'not yet of the new topic');
  assert.equal((await peer.hear('unsubscribe')).id, asked.id);
  assert.deepEqual((await peer.answer({ route: 2 })).topics, ['public.u']);
  await until(() => page.text.includes('live'));
  assert.equal(gateway.connections, 1);
  await page.unmount();
  await peer.hear('unsubscribe');
  await until(() => peer.isClosed, 'it is closed when nobody needs it');
});

test('useRows shows a table, and useStatus the connection', async (t) => {
  const gateway = await Gateway.start(t);
  let loads = 0;
  const Page = () => {
    const { rows, status } = useRows('public.t', { initial: async () => (loads++, [{ id: 7 }]) });
    return `${rows.map((row) => row.id)} ${status.state}/${useStatus().state}`;
  };
  const page = await mounted(t, h(RowcastProvider, { url: gateway.url, WebSocket }, h(Page)));
  assert.match(page.text, /^" (connecting|catching up)/);
  const { peer } = await gateway.subscribed();
  await until(() => page.text === '"7 live/live"');
  peer.change([8, 9]);
  await until(() => page.text === '"7,8,9 live/live"');
  peer.socket.terminate();
  await until(() => page.text.startsWith('"7,8,9 waiting'));
  await gateway.subscribed();
  await until(() => page.text === '"7,8,9 live/live"');
  assert.equal(loads, 1, 'neither Strict Mode nor a reconnect loads again');
});

test('another URL is another client; the same one with other functions is not', async (t) => {
  const [first, second] = [await Gateway.start(t), await Gateway.start(t)];
  const Page = () => useChanges('public.t', () => {}).state;
  const shown = (url) => h(RowcastProvider, { url, WebSocket, token: () => null }, h(Page));
  const page = await mounted(t, shown(first.url));
  const { peer } = await first.subscribed();
  await page.update(shown(first.url));
  await page.update(shown(second.url));
  await second.subscribed();
  await until(() => page.text.includes('live'));
  await until(() => peer.isClosed);
  assert.deepEqual([first.connections, second.connections], [1, 1]);
});

test('on a server it renders, and connects to nothing', async () => {
  const none = class {
    constructor() {
      throw new Error('no connection on a server');
    }
  };
  const Page = () => {
    useChanges('public.t', () => {});
    useTableChanges('profiles', () => {});
    const { rows } = useRows('public.t', { initial: () => [{ id: 1 }] });
    return `${rows.length} rows, ${useStatus().state}`;
  };
  assert.equal(renderToString(h(RowcastProvider, { url: '/rowcast', WebSocket: none }, h(Page))), '0 rows, closed');
  assert.throws(() => renderToString(h(Page)), /no <RowcastProvider> above/);
});
