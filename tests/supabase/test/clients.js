// Supabase's clients, as an application makes them.

import { RealtimeClient } from '@supabase/realtime-js';
import { createClient } from '@supabase/supabase-js';
import { createHmac } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { RealtimeClient as RealtimeClient2025 } from 'realtime-js-2025';
import WebSocket from 'ws';

const socket = (Client, path) => (http, { key = 'any-key', ...options } = {}) =>
  new Client(http.replace('http', 'ws') + path, { params: { apikey: key }, transport: WebSocket, ...options });

/** Each takes the address of a gateway. The old one speaks 1.0.0, the others 2.0.0. */
export const clients = {
  'realtime-js': socket(RealtimeClient, '/realtime/v1'),
  'realtime-js of 2025': socket(RealtimeClient2025, '/socket'),
  'supabase-js': (http, { key = 'any-key', accessToken, ...realtime } = {}) =>
    createClient(http, key, { realtime: { transport: WebSocket, ...realtime }, ...(accessToken && { accessToken }), auth: { persistSession: false, autoRefreshToken: false } }),
};

/** Waits until `condition` gives something; what it waited for may be a function, which is asked at the end. */
export async function until(condition, what = String(condition), withinMs = 5_000) {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`not in time: ${typeof what === 'function' ? what() : what}`);
    await sleep(5);
  }
}

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

export const secret = 'a secret of at least 32 bytes, as HS256 wants it';
export const auth = '[auth.jwt]\nalgorithms = ["HS256"]\naudience = "rowcast"\nissuer = "tests"\nsecret_env = "JWT_SECRET"\nleeway_s = 0\n';

/** A token that ends after some seconds. */
export function token(seconds, claims = { topics: ['public.orders'] }) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const rest = { sub: 'me', aud: 'rowcast', iss: 'tests', exp: Math.ceil(Date.now() / 1000 + seconds) };
  const body = `${encode({ alg: 'HS256' })}.${encode({ ...rest, ...claims })}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}
