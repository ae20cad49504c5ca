// Supabase's clients, as an application makes them.

import { RealtimeClient } from '@supabase/realtime-js';
import { createClient } from '@supabase/supabase-js';
import { RealtimeClient as RealtimeClient2025 } from 'realtime-js-2025';
import WebSocket from 'ws';

export { until } from '../../../clients/js/test/fake.js';
export { auth, secret, token } from '../../../clients/js/test/tokens.js';

const socket = (Client, path) => (http, { key = 'any-key', ...options } = {}) =>
  new Client(http.replace('http', 'ws') + path, { params: { apikey: key }, transport: WebSocket, ...options });

/** Each takes the address of a gateway. The old one speaks 1.0.0 if it is not told otherwise, the others 2.0.0. */
export const clients = {
  'realtime-js': socket(RealtimeClient, '/realtime/v1'),
  'realtime-js of 2025': socket(RealtimeClient2025, '/socket'),
  'supabase-js': (http, { key = 'any-key', accessToken, ...realtime } = {}) =>
    createClient(http, key, { realtime: { transport: WebSocket, ...realtime }, ...(accessToken && { accessToken }), auth: { persistSession: false, autoRefreshToken: false } }),
  'realtime-js of 2025, vsn 2.0.0': (http, options) => clients['realtime-js of 2025'](http, { vsn: '2.0.0', ...options }),
};

/** Ends a client, so that nothing of it keeps the test alive. */
export async function end(client) {
  await client.removeAllChannels();
  await (client.realtime ?? client).disconnect();
}

/** What a channel goes through, and a wait for it. */
export function follow(channel) {
  const statuses = [];
  const errors = [];
  channel.subscribe((status, error) => {
    statuses.push(status);
    if (error) errors.push(error.message);
  });
  return { statuses, errors };
}
