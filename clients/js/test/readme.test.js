// The code in the README, run as it stands.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { createElement } from 'react';
import { renderToString } from 'react-dom/server';
import ts from 'typescript';
import WebSocket from 'ws';
import { until } from './fake.js';
import { Site } from './site.js';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const blocks = (language) => [...readme.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms'))].map(([, code]) => code);

// Inside the package, so that it finds itself by its name.
const folder = mkdtempSync(fileURLToPath(new URL('.readme-', import.meta.url)));
test.after(() => rmSync(folder, { recursive: true }));
let count = 0;
function run(code) {
  const path = join(folder, `${++count}.mjs`);
  writeFileSync(path, code);
  return import(pathToFileURL(path));
}

test('each block does what it says', async (t) => {
  const site = await Site.start(t);
  await site.serve('create table orders (id bigint primary key)', 'orders');
  // What is at localhost:8080 in the README.
  globalThis.WebSocket = class extends WebSocket {
    constructor(url) {
      super(url.replace('localhost:8080', new URL(site.gateways[0].url).host));
    }
  };
  process.env.ROWCAST_URL = site.gateways[1].url;
  globalThis.fetch = async (path) => ({ json: () => site.rows(path.replace('/api/', '')), text: async () => 'a token' });
  const said = [];
  const { log } = console;
  console.log = (...words) => said.push(words.map((word) => (typeof word === 'object' ? JSON.stringify(word) : word)).join(' '));
  t.after(() => (console.log = log));

  const all = blocks('js').map((code) => run(`${code}export { rc };`));
  await until(() => said.includes('orders: live') && said.includes('rows: '));
  assert.equal(all.length, 5);
  const expected = ['INSERT {"id":3}', 'loop: 3', 'rows: 1,2,3', 'with a token: 3', 'node: INSERT 3'];
  for (let id = 1; id <= 3; id++) {
    // The last to be ready hears the last one.
    if (id === 3) await until(() => ['loop: 2', 'with a token: 2', 'node: INSERT 2'].every((line) => said.includes(line)));
    else await new Promise((resolve) => setTimeout(resolve, 500));
    await site.sql(`insert into orders values (${id})`);
  }
  await until(() => expected.every((line) => said.includes(line)), () => said.join('\n'));
  for (const { rc } of await Promise.all(all)) rc.close();
});

test('each component renders', async () => {
  const shown = [];
  for (const code of blocks('jsx')) {
    const { outputText } = ts.transpileModule(code, { compilerOptions: { jsx: ts.JsxEmit.ReactJSX, module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 } });
    const { default: Component } = await run(outputText);
    shown.push(renderToString(createElement(Component)));
  }
  assert.deepEqual(shown, ['<p>closed</p><ul title="connecting"></ul>', '<p>disconnected</p>']);
});
