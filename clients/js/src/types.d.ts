// The shapes that the client takes and gives. They have no code, so that rowcast.js stays small for browsers.

/** A row's change, or a NOTIFY payload (which has only `topic`, `data` and `at`). See the protocol's `message`. */
export interface Change<Row = any> {
  type: 'change';
  topic: string;
  /** Where a subscription that has this change goes on: its `since`. */
  cursor: string;
  op?: 'INSERT' | 'UPDATE' | 'DELETE' | 'TRUNCATE';
  /** The names of the key columns. */
  key?: string[];
  /** The new row, or the payload; `null` for DELETE and TRUNCATE. */
  data: Row;
  /** The old row, or its key, as the table is watched. */
  old?: Partial<Row>;
  /** When the statement ran, by the database's clock; RFC 3339. */
  at: string;
  /** The transaction; absent when conflated. */
  tx?: string;
  /** Whether it is the transaction's last change here. A `tx_end` may tell that later instead. */
  tx_end?: boolean;
  /** The columns that were left out because the change was too large. */
  cut?: string[];
}

/** Changes between what was had and `cursor` may be missing; what follows is complete. */
export interface Reset {
  type: 'reset';
  reason: 'new_feed' | 'history_trimmed' | 'unknown_cursor' | 'too_slow' | (string & {});
  cursor: string;
}

/** A subscription's answer: changes follow. */
export interface Subscribed {
  cursor: string;
  /** Whether it goes on from its `since` with nothing missed. */
  resumed: boolean;
}

/** The transaction has no more changes here. */
export interface TxEnd {
  type: 'tx_end';
  tx: string;
  cursor: string;
}

/**
 * - `connecting`: there is no connection yet.
 * - `catching up`: connected; not everything that was missed is here yet. With an `error` of code `stalled`: the gateway
 *   itself hears nothing.
 * - `live`: what is here is what there is.
 * - `waiting`: until `retryAt`, then again; `error` says why.
 * - `failed`: for good; `error` says why.
 * - `closed`: nothing is wanted.
 */
export type State = 'connecting' | 'catching up' | 'live' | 'waiting' | 'failed' | 'closed';

export interface Status {
  state: State;
  /** When it will be tried again, as `Date.now()` counts. */
  retryAt?: number;
  /** Why it waits, has failed, or has stalled. */
  error?: Error;
  /** Which gateway serves the connection. */
  gateway?: string;
}

/** What the constructor of a WebSocket must make: the browser's, Node's, or that of the package `ws`. */
export type WebSocketLike = new (url: string) => any;

export interface ConnectOptions {
  /** A token, or a function that gives one: asked at first, before the token expires, and when it was refused. */
  token?: string | null | (() => string | null | undefined | Promise<string | null | undefined>);
  /** Default: `globalThis.WebSocket`. */
  WebSocket?: WebSocketLike;
  /** How often the gateway should tell that nothing was missed, in ms: at least 5000, default 25000. */
  watermarkMs?: number;
  /** The first wait before a reconnect is at most this, in ms. Default 500. */
  firstRetryMs?: number;
  /** No wait is longer, in ms. Default 15000. */
  mostRetryMs?: number;
  /** Reads a frame. Default: `JSON.parse`, which rounds numbers above 2^53. */
  parse?: (text: string) => any;
}

export interface SubscribeOptions {
  /** Begin behind this cursor. Default: now. */
  since?: string;
  /** At most one frame a row and this time, with what its changes come to. */
  conflate?: { every_ms: number };
  /** Only changes of these tables: of payloads with a `table`, or of watched tables by name with or without schema. */
  tables?: string | string[];
  /** Passed on; a gateway that does not serve it refuses the subscription with `unsupported`. */
  where?: string;
  /** Passed on, likewise. */
  columns?: string[];
  /** Passed on, likewise. */
  ops?: string[];
  onSubscribed?: (answer: Subscribed) => void;
  /** Something may be missing: load anew what was built from changes. */
  onReset?: (reset: Reset) => void;
  /** Where a transaction's end is known only behind its last change. */
  onTxEnd?: (end: TxEnd) => void;
  onStatus?: (status: Status) => void;
  /** The subscription was refused; `error.temporary` if it is tried again. Default: `console.error`. */
  onError?: (error: Error & { code: string; temporary: boolean }) => void;
}

export interface ChangesOptions extends Omit<SubscribeOptions, 'onError' | 'onStatus' | 'onSubscribed' | 'onTxEnd'> {
  /** How many changes wait for the loop before the subscription is paused. Default 1000. */
  limit?: number;
}

export interface LiveOptions<Row = any> extends Omit<SubscribeOptions, 'since' | 'tables' | 'onTxEnd'> {
  /** The key column, the key columns, or a function of a row. Default `id`. */
  key?: string | string[] | ((row: Row) => unknown);
  /** Loads all rows: what is committed when it is called, from no cache and no replica that lags. */
  initial: () => Iterable<Row> | Promise<Iterable<Row>>;
  /** The rows have changed: after each transaction, and each load. */
  onChange?: (rows: Map<string, Row>) => void;
}

/** What `subscribe` returns. */
export interface Subscription {
  readonly topics: string[];
  /** Where it goes on: keep it to resume in another page or process. */
  readonly cursor: string | undefined;
  readonly status: Status;
  /** Nothing more comes, and nothing is missed, until `resume`. */
  pause(): void;
  resume(): void;
  unsubscribe(): void;
}
