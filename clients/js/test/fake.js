// A gateway that says what a test wants it to, over real sockets.

import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket, { WebSocketServer } from 'ws';
import { connect } from '../src/index.js';

const SOON_MS = 5_000;

/** Waits until `condition` gives something; what it waited for may be a function, which is asked at the end. */
export async function until(condition, what = String(condition), withinMs = SOON_MS) {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`not in time: ${typeof what === 'function' ? what() : what}`);
    await sleep(5);
  }
}

/** A JWT as far as a client looks at it. */
export function jwt(expiresInMs, name = '') {
  const claims = { exp: (Date.now() + expiresInMs) / 1000, name };
  return `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`;
}

export class Gateway {
  /** Who has connected, and was not taken yet. */
  #newcomers = [];

  static async start(test) {
    const gateway = new Gateway();
    gateway.server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    await once(gateway.server, 'listening');
    gateway.url = `ws://127.0.0.1:${gateway.server.address().port}/rowcast`;
    gateway.connections = 0;
    gateway.server.on('connection', (socket) => {
      gateway.connections++;
      gateway.#newcomers.push(new Peer(socket));
    });
    test.after(() => {
      gateway.server.clients.forEach((client) => client.terminate());
      gateway.server.close();
    });
    gateway.client = (options = {}) => {
      const client = connect(gateway.url, { WebSocket, firstRetryMs: 30, mostRetryMs: 100, ...options });
      test.after(() => client.close());
      return client;
    };
    return gateway;
  }

  /** The next connection; hello is said. */
  async next() {
    const peer = await until(() => this.#newcomers.shift(), 'a connection');
    peer.say({ type: 'hello', gateway: 'fake', version: '0' });
    return peer;
  }

  /** The next connection, and its only subscription, answered. */
  async subscribed(answer = {}) {
    const peer = await this.next();
    return { peer, asked: await peer.answer(answer) };
  }
}

class Peer {
  #heard = [];

  constructor(socket) {
    this.socket = socket;
    this.isClosed = false;
    socket.on('message', (data) => this.#heard.push(JSON.parse(data)));
    socket.on('close', (code) => Object.assign(this, { isClosed: true, code }));
  }

  /** The next message. Pings are answered, unless `mute`. */
  async hear(type) {
    const message = await until(() => this.#next(), `a message '${type}'`);
    if (message.type !== type) throw new Error(`${type} was expected: ${JSON.stringify(message)}`);
    return message;
  }

  #next() {
    while (this.#heard[0]?.type === 'ping' && !this.mute) {
      this.#heard.shift();
      this.say({ type: 'pong' });
    }
    return this.#heard.shift();
  }

  /** Answers pings that have come. */
  pong() {
    const count = this.#heard.filter(({ type }) => type === 'ping').length;
    this.#heard = this.#heard.filter(({ type }) => type !== 'ping');
    for (let i = 0; i < count; i++) this.say({ type: 'pong' });
    return count;
  }

  async answer({ route = 1, cursor, resumed, caughtUp = true } = {}) {
    const asked = await this.hear('subscribe');
    const answer = { cursor: cursor ?? asked.since ?? 'f.0', resumed: resumed ?? !!asked.since };
    this.say({ type: 'subscribed', id: asked.id, route, ...answer });
    if (answer.resumed && caughtUp) this.caughtUp(asked, answer.cursor);
    return asked;
  }

  caughtUp({ id }, cursor) {
    this.say({ type: 'caught_up', id, cursor });
  }

  say(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  /** Changes with these offsets, on route 1 or what `to` says. */
  change(offsets, to = { route: 1 }) {
    for (const offset of [offsets].flat()) {
      this.say({ type: 'change', ...to, cursor: `f.${offset}`, topic: 'public.t', op: 'INSERT', key: ['id'], data: { id: offset }, at: '', tx: '1', tx_end: true });
    }
  }
}

export { WebSocket, sleep };
