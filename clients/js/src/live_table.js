import { Backoff } from './backoff.js';
import { RowcastError } from './error.js';
import { CATCHING_UP, CLOSED, CONNECTING, call, differs } from './status.js';

/** @import { Client } from './client.js' */
/** @import { Change, LiveOptions, Status } from './types.d.ts' */

/**
 * A table's rows by key: a string; of several columns, a JSON list of strings.
 *
 * First it subscribes, and keeps what comes. Then it loads, and puts what came on top, by key. A change that the load
 * had already does no harm; but until those behind it have come too, a row may for a moment be as it was before.
 * @template [Row=any]
 */
export class LiveTable {
  /** @type {Map<string, Row>} */
  rows = new Map();
  /** @type {Status} */
  status = CLOSED;
  #options;
  #sub;
  /** What became of the rows that changed since the load began; null: gone. @type {Map<string, Row | null> | undefined} */
  #changed;
  /** Whether all rows that the load may have are gone. */
  #emptied = false;
  /** Which load counts. */
  #load = 0;
  /** What keeps it from being live, besides the subscription. @type {Status | undefined} */
  #own = CATCHING_UP;
  #backoff = new Backoff(1_000, 15_000);
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {string | undefined} */
  #tx;
  /** Whether `rows` have changed since that was told. */
  #news = false;

  /** @param {Client} client @param {string} topic @param {LiveOptions<Row>} options */
  constructor(client, topic, options) {
    const { key: _key, initial: _initial, onChange: _onChange, ...wanted } = options;
    this.#options = options;
    this.#sub = client.subscribe(topic, (change) => this.#take(change), {
      ...wanted,
      onSubscribed: (answer) => {
        if (!this.#load) this.#reload();
        options.onSubscribed?.(answer);
      },
      onReset: (reset) => {
        this.#reload();
        options.onReset?.(reset);
      },
      onTxEnd: () => this.#tell(),
      onStatus: () => this.#show(),
    });
    this.#show();
  }

  unsubscribe() {
    this.#load++;
    clearTimeout(this.#timer);
    this.#sub.unsubscribe();
  }

  async #reload() {
    const load = ++this.#load;
    clearTimeout(this.#timer);
    this.#changed = new Map();
    this.#emptied = false;
    this.#own = CATCHING_UP;
    this.#show();
    try {
      const loaded = await this.#options.initial();
      if (load === this.#load) this.#replace(loaded);
    } catch (error) {
      if (load === this.#load) this.#failed(error);
    }
  }

  /** @param {Iterable<Row>} loaded */
  #replace(loaded) {
    /** @type {Map<string, Row | null>} */
    const all = new Map();
    if (!this.#emptied) for (const row of loaded) all.set(this.#key(row), row);
    this.#changed?.forEach((row, key) => all.set(key, row));
    this.rows.clear();
    all.forEach((row, key) => row !== null && this.rows.set(key, row));
    this.#changed = this.#own = undefined;
    this.#backoff.reset();
    this.#news = true;
    this.#tell();
    this.#show();
  }

  /** @param {unknown} thrown */
  #failed(thrown) {
    // Our own: trying again would not help.
    const isFinal = thrown instanceof RowcastError;
    const error = isFinal ? thrown : new RowcastError('load_failed', String(thrown), true);
    const delay = this.#backoff.next();
    if (isFinal) this.unsubscribe();
    else this.#timer = setTimeout(() => this.#reload(), delay);
    this.#own = isFinal ? { state: 'failed', error } : { state: 'waiting', retryAt: Date.now() + delay, error };
    this.#show();
    call(this.#options.onError ?? console.error, error);
  }

  /** @param {Change} change */
  #take(change) {
    // A change of another transaction ends the one before too.
    if (change.tx !== this.#tx) this.#tell();
    this.#tx = change.tx;
    try {
      this.#apply(change);
    } catch (error) {
      return this.#failed(error);
    }
    this.#news = true;
    if (change.tx_end || !change.tx) this.#tell();
  }

  /** @param {Change} change */
  #apply({ topic, op, data, old }) {
    if (!op) throw new RowcastError('no_key', `'${topic}' is no watched table: its changes have no rows by key`);
    if (op === 'TRUNCATE') {
      // Which rows were in a partition is not known here.
      if (data) return void this.#reload();
      this.#emptied = true;
      return (this.#changed ?? this.rows).clear();
    }
    const before = old && this.#key(old);
    const now = op === 'DELETE' ? undefined : this.#key(data);
    if (before === undefined && now === undefined) {
      throw new RowcastError('no_key', `'${topic}' is watched without old keys: its deletes cannot be followed`);
    }
    if (before !== undefined && before !== now) this.#put(before, null);
    if (now !== undefined) this.#put(now, data);
  }

  /** @param {string} key @param {Row | null} row */
  #put(key, row) {
    if (this.#changed) this.#changed.set(key, row);
    else if (row === null) this.rows.delete(key);
    else this.rows.set(key, row);
  }

  /** @param {any} row */
  #key(row) {
    const { key = 'id' } = this.#options;
    const values = typeof key === 'function' ? [key(row)] : [key].flat().map((column) => row?.[column]);
    if (values.includes(undefined)) throw new RowcastError('bad_key', `no key '${key}' in ${JSON.stringify(row)}`);
    return values.length > 1 ? JSON.stringify(values.map(String)) : String(values[0]);
  }

  /** Not in the middle of a transaction, and not before the load. */
  #tell() {
    if (!this.#news || this.#changed) return;
    this.#news = false;
    call(this.#options.onChange, this.rows);
  }

  #show() {
    const of = this.#sub?.status ?? CONNECTING;
    const status = this.#own?.state === 'failed' || of.state === 'live' ? (this.#own ?? of) : of;
    const news = differs(status, this.status);
    this.status = status;
    if (news) call(this.#options.onStatus, status);
  }
}
