import { Backoff } from './backoff.js';
import { CATCHING_UP, CLOSED, call, differs } from './status.js';

/** @import { Change, Status, SubscribeOptions, Subscription } from './types.d.ts' */

/** What is wanted and how far it came, over all connections. @implements {Subscription} */
export class Sub {
  /** Its name on this connection: another one each time that it is asked for, so that no answer is mistaken. */
  id = '';
  /** @type {number | undefined} */
  route;
  /** Whether this connection has answered it; before that nothing is for it. */
  answered = false;
  paused = false;
  /** How it is while a connection is open. @type {Status} */
  own = CATCHING_UP;
  /** @type {Status} */
  status = CLOSED;
  /** Until it is asked for again. @type {ReturnType<typeof setTimeout> | undefined} */
  timer;
  /** Whether nothing has come since it was last looked at. */
  quiet = false;
  /** Whether it was said that nobody carries its topic. */
  told = false;
  /** Of refusals. What was refused is rarely right soon; a thousand that ask again cost a gateway 0.8 % of a core. */
  backoff = new Backoff(2_000, 30_000);

  /** @param {string | string[]} topics @param {(change: Change) => void} onChange
   * @param {SubscribeOptions} options @param {Record<'leave' | 'pause' | 'resume', (sub: Sub) => void>} client */
  constructor(topics, onChange, options, { leave, pause, resume }) {
    this.topics = [topics].flat();
    this.onChange = onChange;
    this.options = options;
    /** @type {string | undefined} */
    this.cursor = options.since;
    this.tables = options.tables && [options.tables].flat();
    this.unsubscribe = () => leave(this);
    this.pause = () => pause(this);
    this.resume = () => resume(this);
  }

  /** @param {Change} change */
  wants({ topic, op, data }) {
    if (!this.tables) return true;
    const names = op ? [topic, topic.replace(/^[^.]*\./, '')] : [data?.table];
    return names.some((name) => this.tables?.includes(name));
  }

  /** How far a cursor is ahead of its own; NaN if it is of another feed. @param {string} cursor */
  ahead(cursor) {
    const [[feed, offset], [ownFeed, ownOffset]] = [cursor, this.cursor ?? ''].map((it) => it.split('.'));
    return feed === ownFeed ? Number(offset) - Number(ownOffset) : NaN;
  }

  /** @param {Status} status */
  show(status) {
    const news = differs(status, this.status);
    this.status = status;
    if (news) call(this.options.onStatus, status);
  }
}
