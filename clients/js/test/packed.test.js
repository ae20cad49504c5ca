// The types as they are packed, for who uses them with TypeScript.

import { execFile } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

async function tsc(...args) {
  const run = promisify(execFile)(process.execPath, [at('../node_modules/typescript/bin/tsc'), ...args], { cwd: at('..') });
  await run.catch(({ stdout }) => Promise.reject(new Error(stdout)));
}

test('they say what the source says', async (t) => {
  const folder = mkdtempSync(at('.packed-'));
  t.after(() => rmSync(folder, { recursive: true }));
  await tsc('-p', 'tsconfig.pack.json', '--outDir', folder);
  copyFileSync(at('../src/types.d.ts'), join(folder, 'types.d.ts'));
  writeFileSync(join(folder, 'use.ts'), readFileSync(at('types.ts'), 'utf8').replaceAll('../src/', './'));
  await tsc('--strict', '--noEmit', '--target', 'es2022', '--module', 'nodenext', '--lib', 'es2022,dom', join(folder, 'use.ts'));
});
