// The real thing: PostgreSQL, Redis, a listener and two gateways, all of them the test's own, to be broken.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import WebSocket from 'ws';
import { until } from './fake.js';

const run = promisify(execFile);
const STARTS_WITHIN_MS = 30_000;
// Below the range that the kernel gives to outgoing connections, so that a server can come back on its port.
const [FIRST_PORT, LAST_PORT] = [18_000, 32_000];

/** The folder with the programs. */
function programs() {
  const targets = ['debug', 'release'].map((profile) => fileURLToPath(new URL(`../../../target/${profile}`, import.meta.url)));
  const folder = [process.env.ROWCAST_BIN, ...targets].find((folder) => folder && existsSync(join(folder, 'gateway')));
  if (!folder) throw new Error('the programs are not built: cargo build --workspace --bins, or set ROWCAST_BIN to their folder');
  return folder;
}

/** The newest PostgreSQL that Debian has, which is not in PATH; else that in PATH. */
function postgresFolder() {
  const all = existsSync('/usr/lib/postgresql') ? readdirSync('/usr/lib/postgresql') : [];
  const newest = all.map(Number).filter(Boolean).sort((a, b) => b - a)[0];
  return newest ? `/usr/lib/postgresql/${newest}/bin/` : '';
}

const taken = new Set();

async function freePort() {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT));
    const server = createServer();
    const free = await new Promise((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(!taken.has(port))));
    });
    if (free) return taken.add(port), port;
  }
}

/** A process that can be ended in every way, and started again as it was. */
class Part {
  constructor(name, command, options, ready) {
    Object.assign(this, { name, command, options, ready });
  }

  async start() {
    const log = openSync(join(this.options.folder, `${this.name}.log`), 'a');
    const [program, ...args] = this.command;
    this.child = spawn(program, args, { stdio: ['ignore', log, log], ...this.options.spawn });
    const exited = once(this.child, 'exit');
    exited.catch(() => {});
    this.exited = exited;
    await until(() => {
      if (this.child.exitCode !== null) throw new Error(`${this.name} has ended: ${this.log()}`);
      return this.ready();
    }, `${this.name} is ready`, STARTS_WITHIN_MS);
  }

  async end(signal) {
    if (this.child?.exitCode === null && this.child.signalCode === null) {
      this.child.kill(signal);
      await this.exited;
    }
  }

  log() {
    return readFileSync(join(this.options.folder, `${this.name}.log`), 'utf8').slice(-2_000);
  }
}

const answers = (url) => fetch(url).then((answer) => answer.ok, () => false);

export class Site {
  #folder = mkdtempSync(join(tmpdir(), 'rowcast-js-'));

  static async start(test, { config = '', env = {} } = {}) {
    const site = new Site();
    test.after(() => site.#stop());
    await site.#start(config, env);
    return site;
  }

  async #start(config, env) {
    const folder = this.#folder;
    const bin = programs();
    const isRoot = process.getuid() === 0;
    // PostgreSQL refuses to run as root.
    const as = isRoot ? ['setpriv', '--reuid', 'postgres', '--regid', 'postgres', '--init-groups'] : [];
    const data = join(folder, 'postgres');
    mkdirSync(data);
    if (isRoot) {
      const id = async (flag) => Number((await run('id', [flag, 'postgres'])).stdout);
      const [uid, gid] = [await id('-u'), await id('-g')];
      [folder, data].forEach((path) => chownSync(path, uid, gid));
    }
    const [initdb, postgres] = ['initdb', 'postgres'].map((name) => [...as, postgresFolder() + name]);
    const make = [...initdb, '-D', data, '--username', 'postgres', '--auth', 'trust', '--encoding', 'UTF8', '--no-locale', '--no-sync'];
    await run(make[0], make.slice(1), { cwd: folder });
    const [postgresPort, redisPort, statusPort, ...gatewayPorts] = await Promise.all([1, 2, 3, 4, 5].map(freePort));
    this.database = `postgres://postgres@127.0.0.1:${postgresPort}/postgres`;
    const part = (name, command, ready) => new Part(name, command, { folder, spawn: { cwd: folder, env: { ...env, RUST_LOG: 'info' } } }, ready);
    this.postgres = part(
      'postgres-server',
      [...postgres, '-D', data, '-k', data, '-h', '127.0.0.1', '-p', `${postgresPort}`, '-c', 'fsync=off', '-c', 'shared_buffers=32MB'],
      () => this.sql('select 1').then(() => true, () => false),
    );
    this.postgres.options.spawn.env = process.env;
    this.redis = part(
      'redis',
      ['redis-server', '--port', `${redisPort}`, '--bind', '127.0.0.1', '--dir', folder, '--appendonly', 'yes', '--appendfsync', 'always', '--save', ''],
      () => run('redis-cli', ['-p', `${redisPort}`, 'ping']).then(({ stdout }) => stdout.startsWith('PONG'), () => false),
    );
    this.redis.options.spawn.env = process.env;
    const urls = ['--database-url', this.database, '--redis-url', `redis://127.0.0.1:${redisPort}`];
    writeFileSync(join(folder, 'rowcast.toml'), config);
    this.listener = part('listener', [join(bin, 'listener'), ...urls, '--status-bind', `127.0.0.1:${statusPort}`], () => answers(`http://127.0.0.1:${statusPort}/readyz`));
    this.gateways = gatewayPorts.map((port, index) => {
      const http = `http://127.0.0.1:${port}`;
      const command = [join(bin, 'gateway'), ...urls, '--bind', `127.0.0.1:${port}`, '--name', `gateway-${index + 1}`, '--drain-ms', '300'];
      return Object.assign(part(`gateway-${index + 1}`, command, () => answers(`${http}/readyz`)), { http, url: `ws://127.0.0.1:${port}/rowcast` });
    });
    await Promise.all([this.postgres.start(), this.redis.start()]);
    this.rowcast = (...args) => run(join(bin, 'rowcast'), [...args, '--database-url', this.database], { cwd: folder });
    await this.rowcast('install');
  }

  /** Makes tables, watches them, and starts the services. */
  async serve(sql, ...tables) {
    await this.sql(sql);
    if (tables.length) await this.rowcast('watch', ...tables);
    await Promise.all([this.listener, ...this.gateways].map((part) => part.start()));
  }

  async sql(text) {
    const { stdout } = await run('psql', ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-c', text, this.database], { maxBuffer: 1 << 28 });
    return stdout.trim();
  }

  /** All rows of a table, as an application's API would answer. */
  async rows(table) {
    return JSON.parse(await this.sql(`select coalesce(json_agg(t), '[]') from ${table} t`));
  }

  /** Of one session, whose statements are written line by line. */
  writer() {
    const psql = spawn('psql', ['-XqAt', '-v', 'ON_ERROR_STOP=1', this.database], { stdio: ['pipe', 'ignore', 'inherit'] });
    const ended = once(psql, 'exit');
    return {
      write: (line) => psql.stdin.write(`${line}\n`),
      end: async () => {
        psql.stdin.end();
        const [code] = await ended;
        if (code !== 0) throw new Error(`psql has ended with ${code}`);
      },
    };
  }

  /** A WebSocket that comes to one gateway or the other, as behind a load balancer. */
  get WebSocket() {
    const { gateways } = this;
    return class extends WebSocket {
      constructor() {
        super(gateways[Math.floor(Math.random() * gateways.length)].url);
      }
    };
  }

  async #stop() {
    const parts = [...(this.gateways ?? []), this.listener, this.redis, this.postgres].filter(Boolean);
    for (const part of parts) await part.end(part === this.postgres ? 'SIGQUIT' : 'SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}
