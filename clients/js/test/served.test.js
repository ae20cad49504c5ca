// What gateways serve at /rowcast.js: the modules as one. (The gateway's own tests hold that it does.)

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import test from 'node:test';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { Gateway, WebSocket, until } from './fake.js';

const MOST_BYTES = 6_000;

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const names = [...read('../../../crates/gateway/src/web.rs').matchAll(/^ {4}"(\w+\.js)",$/gm)].map(([, name]) => name);
const lines = names.flatMap((name) => read(`../src/${name}`).split('\n')).map((line) => line.trimStart());
const leftOut = ['import ', 'export {', '//', '/*', '*'];
const served = lines.filter((line) => line && !leftOut.some((start) => line.startsWith(start))).join('\n');

test('the gateway has every module of the client', () => {
  const all = readdirSync(new URL('../src/', import.meta.url)).filter((name) => name.endsWith('.js') && name !== 'react.js');
  assert.deepEqual([...names].sort(), all.sort());
});

test('as one module it works', async (t) => {
  const gateway = await Gateway.start(t);
  const { connect, RowcastError } = await import(`data:text/javascript;base64,${Buffer.from(served).toString('base64')}`);
  assert.equal(typeof RowcastError, 'function');
  const rc = connect(gateway.url, { WebSocket });
  t.after(() => rc.close());
  const got = [];
  rc.subscribe('public.t', (change) => got.push(change.data.id));
  const { peer } = await gateway.subscribed();
  peer.change([1, 2]);
  await until(() => got.length === 2);
});

test('compressed it is small', (t) => {
  const sizes = { plain: served.length, gzip: gzipSync(served, { level: 9 }).length, brotli: brotliCompressSync(served).length };
  t.diagnostic(JSON.stringify(sizes));
  assert.ok(sizes.brotli < MOST_BYTES);
});
