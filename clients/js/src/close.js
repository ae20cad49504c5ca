// The close codes after which trying again the same way is pointless, as in crates/protocol/src/close.rs.

/** @type {Record<number, [name: string, rule: 'stop' | 'new token']>} */
const CLOSES = {
  1000: ['normal', 'stop'],
  1002: ['protocol_error', 'stop'],
  1003: ['unsupported', 'stop'],
  1007: ['invalid_text', 'stop'],
  1009: ['too_big', 'stop'],
  4401: ['unauthorized', 'new token'],
  4403: ['forbidden', 'new token'],
  4429: ['rate_limited', 'stop'],
};

/** Its name, and what to do next. After a code that is not in the table, a proxy's say: connect again.
 * @param {number} code @returns {[name: string, rule: 'stop' | 'new token' | 'again']} */
export const closeOf = (code) => CLOSES[code] ?? ['closed', 'again'];

/** In ms: a gateway that leaves spreads its clients itself, by `{"retry_ms":N}`. @param {string} reason */
export function retryHint(reason) {
  try {
    const ms = JSON.parse(reason).retry_ms;
    return ms >= 0 ? Math.min(ms, 60_000) : undefined;
  } catch {
    return undefined;
  }
}
