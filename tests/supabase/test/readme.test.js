// The code in the README's section, run as it stands.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import WebSocket from 'ws';
import { Site } from '../../../clients/js/test/site.js';
import { end, until } from './clients.js';

const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
const section = readme.split(/^### /m).find((part) => part.startsWith("Supabase's client\n"));

test('each block does what it says', async (t) => {
  const site = await Site.start(t);
  await site.serve('create table orders (id bigint primary key)', 'orders');
  const { host } = new URL(site.gateways[0].http);
  // What is at localhost:8080 in the README.
  globalThis.WebSocket = class extends WebSocket {
    constructor(url, ...rest) {
      super(url.replace('localhost:8080', host), ...rest);
    }
  };
  const said = [];
  Object.assign(globalThis, {
    apply: (...what) => said.push(what),
    reloadEverything: () => said.push('reload'),
    show: (...what) => said.push(what),
  });
  const blocks = [...section.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
  assert.equal(blocks.length, 3);
  // Inside the package, so that it finds what it imports.
  const folder = mkdtempSync(fileURLToPath(new URL('.readme-', import.meta.url)));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'all.mjs');
  writeFileSync(path, `${blocks.join('\n')}\nexport { channel, room, supabase };`);
  const { channel, room, supabase } = await import(pathToFileURL(path));
  t.after(() => end(supabase));
  const states = () => supabase.getChannels().map(({ state }) => state);
  await until(() => said.includes('reload') && states().length === 3 && states().every((state) => state === 'joined'), () => `${states()}`);

  await site.sql('insert into orders values (1)');
  await site.sql('delete from orders');
  const changes = () => said.filter(([kind]) => ['INSERT', 'DELETE'].includes(kind));
  await until(() => changes().length === 4);
  assert.deepEqual(new Set(changes().map(JSON.stringify)), new Set([['INSERT', { id: 1 }, {}], ['DELETE', {}, { id: 1 }]].map(JSON.stringify)));
  await until(() => /^\w+\.\d+$/.test(channel.joinPush.payload().resume));
  await room.send({ type: 'broadcast', event: 'cursor', payload: { x: 2 } });
  await until(() => said.some(([what]) => what?.x === 2), () => JSON.stringify(said));
});
