import { Backoff } from './backoff.js';
import { closeOf, retryHint } from './close.js';
import { RowcastError } from './error.js';
import { CLOSED, CONNECTING } from './status.js';
import { Token } from './token.js';

/** @import { ConnectOptions, Status } from './types.d.ts' */

const CONNECT_WITHIN_MS = 15_000;
const WATERMARK_MS = 25_000;
// A watermark may be this late. Then a ping asks, whose answer may take as long.
const PATIENCE_MS = 5_000;
// A connection that lived this long was a good one: the next wait is short again.
const GOOD_AFTER_MS = 5_000;

/**
 * @typedef {object} Events
 * @property {() => void} opened frames may be sent
 * @property {(frame: any) => void} heard
 * @property {() => void} dropped nothing more comes through what was open
 * @property {() => void} changed `away` or `gateway` has
 * @property {(error: RowcastError) => void} failed for good
 */

/** One socket to a gateway, again and again, until it is stopped. */
export class Connection {
  #url;
  #options;
  #events;
  #token;
  #backoff;
  /** @type {any} */
  #socket;
  /** Which connection this is: what is still awaited for an earlier one does not count. */
  #turn = {};
  #openedAt = 0;
  #heardAt = 0;
  #doubted = false;
  #authenticating = false;
  #pings = 0;
  /** @type {Record<string, ReturnType<typeof setTimeout>>} */
  #timers = {};
  #wake = () => globalThis.document?.visibilityState !== 'hidden' && this.#hurry();
  /** What it is doing if it is not open. @type {Status | undefined} */
  away = CLOSED;
  /** The name of the gateway. @type {string | undefined} */
  gateway;

  /** @param {string} url @param {ConnectOptions} options @param {Events} events */
  constructor(url, options, events) {
    this.#url = url;
    this.#options = options;
    this.#events = events;
    this.#token = new Token(options.token);
    this.#backoff = new Backoff(options.firstRetryMs ?? 500, options.mostRetryMs ?? 15_000);
  }

  get #silenceMs() {
    return (this.#options.watermarkMs ?? WATERMARK_MS) + PATIENCE_MS;
  }

  get WebSocket() {
    return this.#options.WebSocket ?? globalThis.WebSocket;
  }

  start() {
    globalThis.addEventListener?.('online', this.#wake);
    globalThis.document?.addEventListener('visibilitychange', this.#wake);
    this.#connect();
  }

  /** @param {Status} status what it is from now on */
  stop(status) {
    globalThis.removeEventListener?.('online', this.#wake);
    globalThis.document?.removeEventListener('visibilitychange', this.#wake);
    this.#drop(status);
  }

  /** @param {object} message */
  send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  /** Its `pong` is heard when it is the answer to the last ping. */
  ping() {
    this.#pings++;
    this.send({ type: 'ping' });
  }

  /** Leaves the connection, and comes again after a while. @param {string} why @param {number} [hintMs] */
  lost(why, hintMs) {
    if (!this.away && performance.now() - this.#openedAt > GOOD_AFTER_MS) this.#backoff.reset();
    const delay = hintMs ?? this.#backoff.next();
    this.#drop({ state: 'waiting', retryAt: Math.ceil(Date.now() + delay), error: new RowcastError('lost', why, true) });
    this.#timers.next = setTimeout(() => this.#connect(), delay);
  }

  /** The socket was closed, or what says the same has come. @param {number} code @param {string} reason
   * @param {string} [why] */
  closed(code, reason, why) {
    const [name, rule] = closeOf(code);
    if (rule === 'stop' || (rule === 'new token' && !this.#token.refused())) {
      this.#events.failed(new RowcastError(name, reason || 'the gateway has closed the connection'));
    } else {
      this.lost(reason || why || `the connection was closed (${code})`, retryHint(reason));
    }
  }

  async #connect() {
    this.#drop(CONNECTING);
    const turn = this.#turn;
    this.#timers.next = setTimeout(() => this.lost('no answer in time'), CONNECT_WITHIN_MS);
    try {
      const token = await this.#token.get();
      if (turn === this.#turn) this.#dial(token);
    } catch (error) {
      if (turn === this.#turn) this.lost(`there is no token: ${error}`);
    }
  }

  /** @param {string | null | undefined} token */
  #dial(token) {
    let socket;
    try {
      const url = new URL(this.#url, globalThis.location?.href);
      if (url.pathname === '/') url.pathname = '/rowcast';
      socket = this.#socket = new this.WebSocket(url.href.replace(/^http/, 'ws'));
    } catch (error) {
      return this.#events.failed(new RowcastError('bad_url', String(error)));
    }
    let why = '';
    socket.onopen = () => (token ? this.#authenticate(token) : this.#ready());
    socket.onmessage = (/** @type {MessageEvent} */ event) => this.#hear(event.data);
    // A browser does not say what went wrong; the package ws does.
    socket.onerror = (/** @type {any} */ event) => (why = event.message ?? '');
    socket.onclose = (/** @type {CloseEvent} */ { code, reason }) => this.closed(code, reason, why);
  }

  /** @param {string} token */
  #authenticate(token) {
    this.#authenticating = true;
    this.send({ type: 'auth', token });
  }

  /** Frames may be sent, or go on under a fresh token. */
  #ready() {
    this.#authenticating = false;
    clearTimeout(this.#timers.renewal);
    const renewInMs = this.#token.renewInMs();
    if (renewInMs !== undefined) this.#timers.renewal = setTimeout(() => this.#renew(), renewInMs);
    if (!this.away) return;
    clearTimeout(this.#timers.next);
    this.away = undefined;
    this.#openedAt = this.#heardAt = performance.now();
    this.#watch(this.#silenceMs);
    this.#events.opened();
  }

  async #renew() {
    const turn = this.#turn;
    this.#token.renew();
    try {
      const token = await this.#token.get();
      if (turn === this.#turn && token) this.#authenticate(token);
    } catch {
      // The one in use is good until the gateway says otherwise.
      if (turn === this.#turn) this.#timers.renewal = setTimeout(() => this.#renew(), PATIENCE_MS);
    }
  }

  /** @param {string} text */
  #hear(text) {
    this.#heardAt = performance.now();
    this.#doubted = false;
    let frame;
    try {
      frame = (this.#options.parse ?? JSON.parse)(text);
    } catch {
      return this.lost('a frame is not JSON');
    }
    if (!this.gateway && frame?.type !== 'hello') {
      const message = `${this.#url} does not speak rowcast's native protocol; a gateway does, at /rowcast`;
      return this.#events.failed(new RowcastError('bad_url', message));
    }
    if (frame.type === 'hello') {
      this.gateway = frame.gateway;
      this.#events.changed();
    } else if (frame.type === 'authenticated') {
      this.#token.accepted();
      this.#ready();
    } else if (frame.type === 'error' && frame.id === undefined) {
      if (this.#authenticating) this.#tokenRefused(frame.code, frame.message);
    } else if (frame.type !== 'pong' || --this.#pings === 0) {
      this.#events.heard(frame);
    }
  }

  /** @param {string} code @param {string} message */
  #tokenRefused(code, message) {
    // A gateway without [auth] takes no token, and needs none.
    if (code === 'unsupported') return this.#ready();
    if (code === 'not_ready' || code === 'rate_limited') return this.lost(`${code}: ${message}`);
    if (!this.#token.refused()) return this.#events.failed(new RowcastError(code, message));
    this.#renew();
  }

  /** @param {Status} away */
  #drop(away) {
    Object.values(this.#timers).forEach(clearTimeout);
    this.#turn = {};
    const socket = this.#socket;
    this.#socket = this.gateway = undefined;
    this.#doubted = this.#authenticating = false;
    this.#pings = 0;
    this.away = away;
    if (socket) {
      // It may still fail: somebody must listen to that.
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = () => {};
      socket.close();
    }
    this.#events.dropped();
  }

  /** Notices a connection that is dead without having been closed: no watermark has come, and no pong.
   * @param {number} afterMs */
  #watch(afterMs) {
    clearTimeout(this.#timers.watch);
    this.#timers.watch = setTimeout(() => {
      const leftMs = this.#silenceMs - (performance.now() - this.#heardAt);
      if (this.#doubted) this.lost('the connection fell silent');
      else if (leftMs > 1) this.#watch(leftMs);
      else this.#doubt();
    }, afterMs);
  }

  #doubt() {
    this.#doubted = true;
    this.ping();
    this.#watch(PATIENCE_MS);
  }

  /** The machine woke up, or has a network again: do not wait for a timer. */
  #hurry() {
    if (!this.away) this.#doubt();
    else if (this.away.state === 'waiting') this.#connect();
  }
}
