// Tokens, and a gateway's settings for them.

import { createHmac } from 'node:crypto';

export const secret = 'a secret of at least 32 bytes, as HS256 wants it';
export const auth = '[auth.jwt]\nalgorithms = ["HS256"]\naudience = "rowcast"\nissuer = "tests"\nsecret_env = "JWT_SECRET"\nleeway_s = 0\n';

/** A token that ends after some seconds. */
export function token(seconds, claims = { topics: ['public.orders'] }) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const rest = { sub: 'me', aud: 'rowcast', iss: 'tests', exp: Math.ceil(Date.now() / 1000 + seconds) };
  const body = `${encode({ alg: 'HS256' })}.${encode({ ...rest, ...claims })}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}
