// One socket to /rowcast. Keeps it alive, and keeps for each subscription the cursor from which it
// resumes, so that a gateway may die without a change being lost or shown twice.

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 5_000;
const AFTER_REFUSAL_MS = 30_000;
const WATERMARK_MS = 5_000;
// Two watermarks missed. A subscription that was refused gets none: then a ping asks.
const PING_AFTER_MS = 6_000;
const DEAD_AFTER_MS = 12_000;
// A connection that lived this long was a good one: the next delay is short again.
const GOOD_AFTER_MS = 5_000;

// Codes after which trying again the same way gives the same answer, in plain words.
const CLOSED_FOR_GOOD = {
  1002: 'the gateway did not understand this page',
  1003: 'the gateway did not understand this page',
  1007: 'the gateway did not understand this page',
  1009: 'this page sent too much at once',
  4401: 'the gateway wants a token, and this page has none',
  4403: 'the gateway does not allow this page',
  4429: 'this page sent too many messages',
};

/**
 * @typedef {object} Events
 * @property {(status: {state: 'connecting'|'open'|'live'|'reconnecting', gateway?: string, version?: string,
 *   retryAt?: number, why?: string}) => void} status
 * @property {(id: string, resumed: boolean) => void} subscribed
 * @property {(id: string, change: object, caughtUp: boolean) => void} change
 * @property {(id: string, reason: string) => void} reset
 * @property {(id: string|undefined, code: string, message: string) => void} refused
 */

export class Connection {
  #url;
  #events;
  #subscriptions;
  #socket = null;
  #gateway = {};
  #heardAt = 0;
  #liveSince = 0;
  #pinged = false;
  #attempt = 0;
  #retry;

  /** @param {string} url @param {{id: string, topic: string}[]} topics @param {Events} events */
  constructor(url, topics, events) {
    this.#url = url;
    this.#events = events;
    this.#subscriptions = topics.map(({ id, topic }) => ({ id, topic, cursor: null, route: null, live: false, mayReset: false, refusals: 0, retry: 0 }));
    setInterval(() => this.#watch(), 1_000);
    addEventListener('online', () => this.#hurry());
    document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && this.#hurry());
  }

  connect() {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#gateway = {};
    this.#heardAt = performance.now();
    this.#pinged = false;
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    // What an abandoned socket still says is not heard: its successor gets it again.
    const current = (then) => (event) => socket === this.#socket && then(event);
    this.#events.status({ state: 'connecting' });
    socket.onopen = current(() => {
      this.#events.status({ state: 'open' });
      this.#subscriptions.forEach((subscription) => this.#subscribe(subscription));
    });
    socket.onmessage = current((event) => this.#hear(event.data));
    socket.onclose = current((event) => this.#lost(event.code, event.reason));
  }

  #subscribe(subscription) {
    const { id, topic, cursor } = subscription;
    this.#send({ type: 'subscribe', id, topics: [topic], ...(cursor && { since: cursor }), watermark: { every_ms: WATERMARK_MS } });
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #hear(text) {
    this.#heardAt = performance.now();
    this.#pinged = false;
    const frame = JSON.parse(text);
    switch (frame.type) {
      case 'hello':
        this.#gateway = { gateway: frame.gateway, version: frame.version };
        this.#events.status({ state: this.#liveSince ? 'live' : 'open', ...this.#gateway });
        break;
      case 'subscribed': this.#subscribed(this.#find(frame.id), frame); break;
      case 'change': this.#changed(frame); break;
      case 'watermark': this.#watermark(frame.cursor); break;
      case 'reset': this.#reset(this.#find(frame.id), frame.reason, frame.cursor); break;
      case 'error': this.#refused(frame); break;
    }
  }

  #find(id) {
    return this.#subscriptions.find((subscription) => subscription.id === id);
  }

  #subscribed(subscription, { route, cursor, resumed }) {
    if (!subscription) return;
    const cameBack = subscription.cursor !== null;
    Object.assign(subscription, { route, live: true, refusals: 0 });
    // A resumed subscription keeps its own cursor: what it missed is still to come. One that could
    // not be resumed keeps it too, until the reset that says so.
    if (!cameBack) subscription.cursor = cursor;
    subscription.mayReset = cameBack && !resumed;
    if (!this.#liveSince) {
      this.#liveSince = performance.now();
      this.#events.status({ state: 'live', ...this.#gateway });
    }
    this.#events.subscribed(subscription.id, cameBack && resumed);
  }

  #changed(frame) {
    const caughtUp = frame.id !== undefined;
    for (const subscription of this.#subscriptions) {
      const wanted = caughtUp ? subscription.id === frame.id : subscription.live && subscription.route === frame.route;
      if (!wanted) continue;
      const [feed, offset] = split(frame.cursor);
      const [ownFeed, ownOffset] = split(subscription.cursor);
      if (subscription.mayReset || feed !== ownFeed) this.#reset(subscription, 'new_feed', frame.cursor);
      else if (offset <= ownOffset) continue;
      subscription.cursor = frame.cursor;
      this.#events.change(subscription.id, frame, caughtUp);
    }
  }

  #watermark(cursor) {
    const [feed, offset] = split(cursor);
    for (const subscription of this.#subscriptions) {
      if (!subscription.live || subscription.mayReset) continue;
      const [ownFeed, ownOffset] = split(subscription.cursor);
      if (feed === ownFeed && offset > ownOffset) subscription.cursor = cursor;
    }
  }

  #reset(subscription, reason, cursor) {
    if (!subscription) return;
    Object.assign(subscription, { cursor, mayReset: false });
    this.#events.reset(subscription.id, reason);
  }

  #refused({ id, code, message }) {
    const subscription = this.#find(id);
    this.#events.refused(id, code, message);
    if (!subscription || subscription.live) return;
    if (code === 'bad_cursor') {
      this.#reset(subscription, 'unknown_cursor', null);
      this.#subscribe(subscription);
      return;
    }
    // A listener that carries the topic may come later.
    const longest = { not_ready: 5_000, unknown_topic: 15_000, rate_limited: 15_000 }[code];
    if (!longest) return;
    const delay = Math.min(1_000 * 2 ** subscription.refusals++, longest) * (0.5 + Math.random() / 2);
    clearTimeout(subscription.retry);
    subscription.retry = setTimeout(() => this.#subscribe(subscription), delay);
  }

  /** Notices a connection that is dead without having been closed. */
  #watch() {
    if (!this.#socket) return;
    const silence = performance.now() - this.#heardAt;
    if (silence >= DEAD_AFTER_MS) {
      const socket = this.#socket;
      this.#lost(1006, '', 'it fell silent');
      socket.close();
    } else if (silence >= PING_AFTER_MS && !this.#pinged) {
      this.#pinged = true;
      this.#send({ type: 'ping' });
    }
  }

  /** The machine woke up, or has a network again: do not wait for a timer. */
  #hurry() {
    if (this.#retry) this.connect();
    else this.#watch();
  }

  #lost(code, reason, why = CLOSED_FOR_GOOD[code]) {
    this.#socket = null;
    if (this.#liveSince && performance.now() - this.#liveSince > GOOD_AFTER_MS) this.#attempt = 0;
    this.#liveSince = 0;
    for (const subscription of this.#subscriptions) {
      clearTimeout(subscription.retry);
      Object.assign(subscription, { route: null, live: false, mayReset: false, refusals: 0 });
    }
    const delay = this.#delay(code, reason);
    this.#attempt += 1;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#events.status({ state: 'reconnecting', ...this.#gateway, retryAt: performance.now() + delay, why });
  }

  /** Exponential with full jitter: clients that lost the same gateway do not come back as one. */
  #delay(code, reason) {
    if (code in CLOSED_FOR_GOOD) return AFTER_REFUSAL_MS;
    return retryHint(reason) ?? Math.random() * Math.min(FIRST_DELAY_MS * 2 ** this.#attempt, LONGEST_DELAY_MS);
  }
}

/** `{"retry_ms":N}` in a close reason: a gateway that leaves spreads its clients itself. */
function retryHint(reason) {
  try {
    const { retry_ms: ms } = JSON.parse(reason);
    return Number.isFinite(ms) && ms >= 0 ? Math.min(ms, 60_000) : undefined;
  } catch {
    return undefined;
  }
}

function split(cursor) {
  const [feed, offset] = (cursor ?? '').split('.');
  return [feed, Number(offset)];
}
