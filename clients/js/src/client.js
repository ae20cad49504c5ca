import { changes } from './changes.js';
import { Connection } from './connection.js';
import { RowcastError } from './error.js';
import { LiveTable } from './live_table.js';
import { CATCHING_UP, CLOSED, LIVE, call, differs } from './status.js';
import { Sub } from './subscription.js';

/** @import { Change, ChangesOptions, ConnectOptions, LiveOptions, Reset, Status, SubscribeOptions, Subscription,
 *    Subscribed, TxEnd } from './types.d.ts' */

// Without subscriptions a connection is kept this long: a page that changes its view needs it again at once.
const LINGER_MS = 1_000;
// Refusals that may pass. The listener that carries a topic may come later.
const TEMPORARY = ['not_ready', 'unknown_topic', 'rate_limited'];

/** @type {Status} */
const STALLED = {
  state: 'catching up',
  error: new RowcastError('stalled', 'the gateway hears nothing: Redis or the listener is away', true),
};
/** It hears again, and what was written meanwhile is coming. @type {Status} */
const RECOVERING = { ...CATCHING_UP };
// How long to wait before asking again whether that is all.
const ASK_AGAIN_MS = 250;

/** Subscriptions over one connection, and how far each of them has come. */
export class Client {
  /** @type {Set<Sub>} */
  #subs = new Set();
  /** @type {Map<string, Sub>} */
  #byId = new Map();
  /** @type {Map<number, Sub>} */
  #byRoute = new Map();
  #asked = 0;
  #connection;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #linger;
  /** @type {RowcastError | undefined} */
  #ended;
  /** The time in the last watermark of each feed, on this connection. @type {Map<string, string>} */
  #marks = new Map();
  /** Feeds of which the gateway hears nothing. @type {Set<string>} */
  #stalled = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #asking;
  /** @type {Status} */
  #status = CLOSED;
  /** @type {Set<(status: Status) => void>} */
  #listeners = new Set();

  /** @param {string} url @param {ConnectOptions} options */
  constructor(url, options) {
    this.#connection = new Connection(url, options, {
      opened: () => this.#askAll(),
      heard: (frame) => this.#hear(frame),
      dropped: () => this.#dropped(),
      changed: () => this.#tell(),
      failed: (error) => this.#fail(error),
    });
    this.watermark = options.watermarkMs && { every_ms: options.watermarkMs };
  }

  /** `live` if every subscription is, apart from those that were refused. */
  get status() {
    return this.#status;
  }

  /** @param {(status: Status) => void} listener @returns {() => void} what ends it */
  onStatus(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls `onChange` with each change of the topics, once and in order.
   * @param {string | string[]} topics @param {(change: Change) => void} onChange @param {SubscribeOptions} options
   * @returns {Subscription} */
  subscribe(topics, onChange, options = {}) {
    if (this.#ended) throw this.#ended;
    if (!this.#connection.WebSocket) {
      throw new Error("no WebSocket here (Node has one from 22 on): connect(url, { WebSocket }) with that of package 'ws'");
    }
    const sub = new Sub(topics, onChange, options, {
      leave: (sub) => this.#leave(sub),
      pause: (sub) => this.#pause(sub),
      resume: (sub) => this.#resume(sub),
    });
    this.#subs.add(sub);
    clearTimeout(this.#linger);
    if (!this.#connection.away) this.#ask(sub);
    else if (this.#connection.away === CLOSED) this.#connection.start();
    this.#tell();
    return sub;
  }

  /** The changes as a loop: see `changes.js`. @param {string | string[]} topics @param {ChangesOptions} [options] */
  changes(topics, options) {
    return changes(this, topics, options);
  }

  /** A table's rows, kept current: see `live_table.js`.
   * @template [Row=any] @param {string} topic @param {LiveOptions<Row>} options @returns {LiveTable<Row>} */
  live(topic, options) {
    return new LiveTable(this, topic, options);
  }

  /** Ends all subscriptions, and the connection. */
  close() {
    this.#end(new RowcastError('closed', 'close() was called'), CLOSED);
  }

  #askAll() {
    this.#subs.forEach((sub) => this.#ask(sub));
    this.#tell();
  }

  /** @param {Sub} sub */
  #ask(sub) {
    this.#forget(sub);
    if (sub.paused || sub.own.state === 'failed') return;
    sub.id = String(++this.#asked);
    sub.own = CATCHING_UP;
    this.#byId.set(sub.id, sub);
    const { topics, cursor: since, options: { conflate, where, columns, ops } } = sub;
    const { watermark } = this;
    this.#connection.send({ type: 'subscribe', id: sub.id, topics, since, conflate, where, columns, ops, watermark });
  }

  /** What this connection still has for it is not heard. @param {Sub} sub */
  #forget(sub) {
    clearTimeout(sub.timer);
    sub.answered = false;
    this.#byId.delete(sub.id);
    if (sub.route !== undefined) this.#byRoute.delete(sub.route);
    sub.route = undefined;
  }

  /** @param {Sub} sub */
  #withdraw(sub) {
    if (this.#byId.has(sub.id)) this.#connection.send({ type: 'unsubscribe', id: sub.id });
    this.#forget(sub);
  }

  /** @param {Sub} sub */
  #pause(sub) {
    if (sub.paused || !this.#subs.has(sub)) return;
    sub.paused = true;
    sub.own = CATCHING_UP;
    this.#withdraw(sub);
    this.#tell();
  }

  /** @param {Sub} sub */
  #resume(sub) {
    if (!sub.paused || !this.#subs.has(sub)) return;
    sub.paused = false;
    if (!this.#connection.away) this.#ask(sub);
  }

  /** @param {Sub} sub */
  #leave(sub) {
    if (!this.#subs.delete(sub)) return;
    this.#withdraw(sub);
    sub.show(CLOSED);
    if (!this.#subs.size) this.#linger = setTimeout(() => this.#connection.stop(CLOSED), LINGER_MS);
    this.#tell();
  }

  /** @param {any} frame */
  #hear(frame) {
    switch (frame.type) {
      case 'subscribed':
        return this.#subscribed(this.#byId.get(frame.id), frame);
      case 'change':
      case 'tx_end':
      case 'reset':
        return this.#deliver(frame);
      case 'watermark':
        return this.#marked(frame);
      case 'caught_up':
        return this.#covered(this.#byId.get(frame.id), frame.cursor);
      case 'pong':
        return this.#ponged();
      case 'error':
        return this.#refused(frame);
    }
  }

  /** @param {Sub | undefined} sub @param {Subscribed & { route: number }} answer */
  #subscribed(sub, { route, cursor, resumed }) {
    if (!sub) return;
    // What was missed is still to come, or a reset, which says that it cannot.
    const own = sub.cursor === undefined ? this.#ownOn(cursor) : CATCHING_UP;
    Object.assign(sub, { route, cursor, own, answered: true, told: false });
    sub.backoff.reset();
    this.#byRoute.set(route, sub);
    call(sub.options.onSubscribed, { cursor, resumed });
    this.#tell();
  }

  /** @param {(Change | TxEnd | Reset) & { id?: string, route?: number }} frame */
  #deliver(frame) {
    const sub = frame.id === undefined ? this.#byRoute.get(frame.route ?? NaN) : this.#byId.get(frame.id);
    if (!sub?.answered) return;
    if (frame.type === 'reset') {
      sub.cursor = frame.cursor;
      sub.own = this.#ownOn(frame.cursor);
      // Before it is called live: who loads anew is not.
      call(sub.options.onReset, frame);
      return this.#tell();
    }
    const ahead = sub.ahead(frame.cursor);
    // A gateway says `reset` first. What this one has lost, it will tell who comes again.
    if (isNaN(ahead)) return this.#connection.lost('a change of another feed came without a reset');
    // A frame with an id is for one that resumes, or read too slowly: `caught_up` ends them.
    sub.quiet = false;
    if (frame.id !== undefined) this.#settle(sub, CATCHING_UP);
    else if (sub.own === STALLED) this.#recover(sub);
    else if (sub.own !== RECOVERING) this.#settle(sub, LIVE);
    // Conflated changes have the cursor of the time before, but for the last of each time.
    if (ahead < 0 || (ahead === 0 && frame.type === 'change' && !sub.options.conflate)) return;
    sub.cursor = frame.cursor;
    if (frame.type === 'tx_end') call(sub.options.onTxEnd, frame);
    else if (sub.wants(frame)) call(sub.onChange, frame);
  }

  /** A watermark is for all of its feed that were answered, and comes only while they are up to date with the gateway.
   * One with the time of the one before says that the gateway itself has heard nothing since.
   * @param {{ cursor: string, at: string }} watermark */
  #marked({ cursor, at }) {
    const [feed] = cursor.split('.');
    if (this.#marks.get(feed) === at) this.#stalled.add(feed);
    else this.#stalled.delete(feed);
    this.#marks.set(feed, at);
    this.#subs.forEach((sub) => this.#covered(sub, cursor));
  }

  /** It has everything up to here. @param {Sub | undefined} sub @param {string} cursor */
  #covered(sub, cursor) {
    if (!sub?.answered || !(sub.ahead(cursor) >= 0)) return;
    sub.cursor = cursor;
    this.#settle(sub, this.#ownOn(cursor));
  }

  /** How one is that has everything of this feed that the gateway has. @param {string} cursor */
  #ownOn(cursor) {
    return this.#stalled.has(cursor.split('.')[0]) ? STALLED : LIVE;
  }

  /** Changes come again, those first that the gateway has missed. A ping asks, and again, until none has come before
   * its answer; the next watermark knows too. @param {Sub} sub */
  #recover(sub) {
    this.#stalled.delete((sub.cursor ?? '').split('.')[0]);
    this.#settle(sub, RECOVERING);
    this.#connection.ping();
  }

  #ponged() {
    const behind = [...this.#subs].filter((sub) => sub.own === RECOVERING);
    const [quiet, busy] = [true, false].map((is) => behind.filter((sub) => sub.quiet === is));
    quiet.forEach((sub) => this.#settle(sub, LIVE));
    busy.forEach((sub) => (sub.quiet = true));
    clearTimeout(this.#asking);
    if (busy.length) this.#asking = setTimeout(() => this.#connection.ping(), ASK_AGAIN_MS);
  }

  /** @param {Sub} sub @param {Status} own */
  #settle(sub, own) {
    if (sub.own === own) return;
    sub.own = own;
    this.#tell();
  }

  /** @param {{ id: string, code: string, message: string }} error */
  #refused({ id, code, message }) {
    const sub = this.#byId.get(id);
    if (!sub) {
      // What was to be ended goes on.
      if (code === 'rate_limited') setTimeout(() => this.#connection.send({ type: 'unsubscribe', id }), LINGER_MS);
      return;
    }
    // It waits for a token, and would close the connection if none came.
    if (code === 'unauthorized') return this.#connection.closed(4401, message);
    const error = new RowcastError(code, message, TEMPORARY.includes(code));
    this.#forget(sub);
    if (error.temporary) {
      const delay = 500 + sub.backoff.next();
      sub.own = { state: 'waiting', retryAt: Date.now() + delay, error };
      sub.timer = setTimeout(() => {
        this.#ask(sub);
        this.#tell();
      }, delay);
    } else {
      sub.own = { state: 'failed', error };
    }
    this.#tell();
    // That a topic is not there yet is said once: it may be misspelt.
    if (error.temporary && (code !== 'unknown_topic' || sub.told)) return;
    sub.told = true;
    call(sub.options.onError ?? console.error, error);
  }

  #dropped() {
    this.#marks.clear();
    this.#stalled.clear();
    clearTimeout(this.#asking);
    this.#subs.forEach((sub) => {
      this.#forget(sub);
      if (sub.own.state !== 'failed') sub.own = CATCHING_UP;
    });
    this.#tell();
  }

  /** @param {RowcastError} error */
  #fail(error) {
    const wanted = [...this.#subs].filter((sub) => sub.own.state !== 'failed');
    this.#end(error, { state: 'failed', error });
    wanted.forEach((sub) => call(sub.options.onError ?? console.error, error));
  }

  /** @param {RowcastError} error @param {Status} status */
  #end(error, status) {
    if (this.#ended) return;
    this.#ended = error;
    clearTimeout(this.#linger);
    this.#connection.stop(status);
    this.#subs.clear();
  }

  #tell() {
    const { away, gateway } = this.#connection;
    this.#subs.forEach((sub) => sub.show(away && sub.own.state !== 'failed' ? away : sub.own));
    const settled = [...this.#subs].every((sub) => sub.own.state !== 'catching up');
    // A callback may have changed it meanwhile, and told that.
    const status = this.#connection.away ?? { ...(settled ? LIVE : CATCHING_UP), gateway };
    if (!differs(status, this.#status)) return;
    this.#status = status;
    this.#listeners.forEach((listener) => call(listener, status));
  }
}
