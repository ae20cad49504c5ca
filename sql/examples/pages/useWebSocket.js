// From the recipe "Real-Time Updates Setup Guide", section 8, reconstructed from its words:
//   useWebSocket: generic WebSocket connection with auto-reconnect
//   useTableChanges: filters messages by specific table names
//   "Uses refs for callbacks to prevent React re-render reconnection loops"
//   "Exponential backoff for reconnection attempts"

import { useEffect, useRef, useState } from 'react';

const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 30000;

/** Keeps a WebSocket to `url` open and calls `onMessage` with each message, parsed. */
export function useWebSocket(url, { onMessage, onOpen, onClose } = {}) {
  const [isConnected, setIsConnected] = useState(false);
  const socket = useRef(null);

  // The effect below must not depend on the callbacks: they are new at every render.
  const callbacks = useRef({});
  callbacks.current = { onMessage, onOpen, onClose };

  useEffect(() => {
    let attempts = 0;
    let timer;
    let unmounted = false;

    function connect() {
      const ws = new WebSocket(url);
      socket.current = ws;
      ws.onopen = () => {
        attempts = 0;
        setIsConnected(true);
        callbacks.current.onOpen?.();
      };
      ws.onmessage = (event) => {
        callbacks.current.onMessage?.(JSON.parse(event.data));
      };
      ws.onclose = (event) => {
        if (unmounted) return;
        setIsConnected(false);
        callbacks.current.onClose?.(event);
        const delay = Math.min(FIRST_DELAY_MS * 2 ** attempts, LONGEST_DELAY_MS);
        attempts += 1;
        timer = setTimeout(connect, delay);
      };
    }

    connect();
    return () => {
      unmounted = true;
      clearTimeout(timer);
      socket.current.close();
    };
  }, [url]);

  return { isConnected, socket };
}

/** Calls `onChange` with each change of one of `tables` (a name or a list of names). */
export function useTableChanges(tables, onChange) {
  const wanted = [].concat(tables);
  return useWebSocket(`ws://${window.location.host}/ws/changes/`, {
    onMessage: (message) => {
      if (wanted.includes(message.table)) onChange(message);
    },
  });
}
