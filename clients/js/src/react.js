// React hooks: what the "db changes" recipe has (useWebSocket, useTableChanges), and ours over a RowcastProvider.
// Callbacks may be new at every render: that never reconnects, and never subscribes anew.

import { createContext, createElement, useContext, useEffect, useInsertionEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react';
import { Backoff, closeOf, connect, retryHint } from './index.js';

/** @import { ReactNode, RefObject } from 'react' */
/** @import { Client } from './index.js' */
/** @import { Change, ConnectOptions, LiveOptions, Status, SubscribeOptions } from './types.d.ts' */

/** @type {Status} */
const CLOSED = { state: 'closed' };
/** @type {{ rows: any[], status: Status }} */
const NOTHING = { rows: [], status: { state: 'connecting' } };
const FIRST_RETRY_MS = 500;
const MOST_RETRY_MS = 30_000;

const Rowcast = createContext(/** @type {Client | null} */ (null));

/** What was rendered last, for callbacks. @template T @param {T} value */
function useLatest(value) {
  const latest = useRef(value);
  useInsertionEffect(() => {
    latest.current = value;
  });
  return latest;
}

/**
 * Gives the hooks below a client: the `client` itself, or one for `url` with the options of `connect`. Nothing is
 * connected before something is subscribed, so it does nothing on a server.
 * @param {ConnectOptions & { client?: Client, url?: string, children?: ReactNode }} props
 */
export function RowcastProvider({ client, url, children, ...options }) {
  const latest = useLatest(options);
  const { token, WebSocket } = options;
  const tokenOrAsk = typeof token === 'function' ? 'ask' : token;
  const value = useMemo(() => {
    const ask = async () => {
      const { token } = latest.current;
      return typeof token === 'function' ? token() : token;
    };
    return client ?? connect(url, { ...options, token: typeof token === 'function' ? ask : token });
    // The other options are read once.
  }, [client, url, tokenOrAsk, WebSocket]);
  return createElement(Rowcast.Provider, { value }, children);
}

/** The client of the RowcastProvider above. */
export function useRowcast() {
  const client = useContext(Rowcast);
  if (!client) throw new Error('there is no <RowcastProvider> above this component');
  return client;
}

/** Calls `onChange` with each change of the topics while the component is mounted.
 * @param {string | string[]} topics @param {(change: Change) => void} onChange @param {SubscribeOptions} options
 * @returns {Status} */
export function useChanges(topics, onChange, options = {}) {
  const client = useRowcast();
  const latest = useLatest({ ...options, onChange });
  const wanted = JSON.stringify([topics, options]);
  const [shown, setShown] = useState({ wanted: '', status: NOTHING.status });
  useEffect(() => {
    const [topics, options] = JSON.parse(wanted);
    const subscription = client.subscribe(topics, (change) => latest.current.onChange(change), {
      ...options,
      ...handedOn(latest),
      onStatus: (status) => {
        setShown({ wanted, status });
        latest.current.onStatus?.(status);
      },
    });
    return () => subscription.unsubscribe();
  }, [client, wanted]);
  return shown.wanted === wanted ? shown.status : NOTHING.status;
}

/** The rows of a table, kept current. Another `initial` or `key` function does not load anew; another topic does.
 * @template [Row=any] @param {string} topic @param {LiveOptions<Row>} options
 * @returns {{ rows: Row[], status: Status }} */
export function useRows(topic, options) {
  const client = useRowcast();
  const latest = useLatest(options);
  const wanted = JSON.stringify([topic, options]);
  const [shown, setShown] = useState({ wanted: '', ...NOTHING });
  useEffect(() => {
    const [topic, options] = JSON.parse(wanted);
    /** @param {Partial<typeof NOTHING>} news */
    const show = (news) => setShown((shown) => ({ ...(shown.wanted === wanted ? shown : NOTHING), ...news, wanted }));
    const { key } = latest.current;
    const live = client.live(topic, {
      ...options,
      ...handedOn(latest),
      key: typeof key === 'function' ? (row) => /** @type {typeof key} */ (latest.current.key)(row) : key,
      initial: () => latest.current.initial(),
      onChange: (rows) => {
        show({ rows: [...rows.values()] });
        latest.current.onChange?.(rows);
      },
      onStatus: (status) => {
        show({ status });
        latest.current.onStatus?.(status);
      },
    });
    return () => live.unsubscribe();
  }, [client, wanted]);
  return shown.wanted === wanted ? shown : NOTHING;
}

/** Options that are functions, as they were rendered last. @param {RefObject<SubscribeOptions>} latest */
const handedOn = (latest) => ({
  /** @type {SubscribeOptions['onReset']} */
  onReset: (reset) => latest.current.onReset?.(reset),
  /** @type {SubscribeOptions['onSubscribed']} */
  onSubscribed: (answer) => latest.current.onSubscribed?.(answer),
  /** @type {SubscribeOptions['onTxEnd']} */
  onTxEnd: (end) => latest.current.onTxEnd?.(end),
  /** @type {SubscribeOptions['onError']} */
  onError: (error) => (latest.current.onError ?? console.error)(error),
});

/** How the connection is. */
export function useStatus() {
  const client = useRowcast();
  return useSyncExternalStore(
    (listener) => client.onStatus(listener),
    () => client.status,
    () => CLOSED,
  );
}

/**
 * A plain endpoint's messages, parsed; it connects again by itself. Nothing is kept for who is away: see useChanges.
 * @param {string} url may be relative to the page
 * @param {{ onMessage?: (message: any) => void, onOpen?: () => void, onClose?: (event: CloseEvent) => void,
 *   WebSocket?: ConnectOptions['WebSocket'] }} options
 */
export function useWebSocket(url, options = {}) {
  const [isConnected, setIsConnected] = useState(false);
  const latest = useLatest(options);
  /** @type {RefObject<any>} */
  const socket = useRef(null);
  useEffect(() => {
    const backoff = new Backoff(FIRST_RETRY_MS, MOST_RETRY_MS);
    const open = () => {
      const WebSocket = latest.current.WebSocket ?? globalThis.WebSocket;
      const ws = new WebSocket(new URL(url, globalThis.location?.href).href.replace(/^http/, 'ws'));
      socket.current = ws;
      ws.onopen = () => {
        setIsConnected(true);
        latest.current.onOpen?.();
      };
      ws.onmessage = (/** @type {MessageEvent} */ { data }) => {
        backoff.reset();
        latest.current.onMessage?.(parsed(data));
      };
      ws.onerror = () => {};
      ws.onclose = (/** @type {CloseEvent} */ event) => {
        setIsConnected(false);
        latest.current.onClose?.(event);
        // On a plain endpoint the token is the page's own, a cookie: a later login makes it good.
        if (closeOf(event.code)[1] !== 'stop') timer = setTimeout(open, retryHint(event.reason) ?? backoff.next());
      };
    };
    // Not at once: in Strict Mode the first mount is undone before it has begun.
    let timer = setTimeout(open, 0);
    return () => {
      clearTimeout(timer);
      const ws = socket.current;
      socket.current = null;
      if (!ws) return;
      ws.onopen = ws.onmessage = ws.onclose = null;
      ws.close();
      setIsConnected(false);
    };
  }, [url]);
  return { isConnected, socket };
}

/** JSON as what it says, other text as it is. @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * The recipe's hook: calls `onChange` with each message `{table, operation or op, data}` of these tables. A table may be
 * named with or without its schema.
 * @param {string | string[]} tables @param {(message: any) => void} onChange
 * @param {{ url?: string, WebSocket?: ConnectOptions['WebSocket'] }} options
 */
export function useTableChanges(tables, onChange, { url = '/ws/changes/', WebSocket } = {}) {
  const wanted = [tables].flat();
  return useWebSocket(url, {
    WebSocket,
    onMessage: (message) => {
      const name = String(message?.table);
      if (wanted.includes(name) || wanted.includes(name.replace(/^[^.]*\./, ''))) onChange(message);
    },
  });
}
