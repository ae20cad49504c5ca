/** @import { Status } from './types.d.ts' */

/** @type {Status} */
export const CLOSED = { state: 'closed' };
/** @type {Status} */
export const CONNECTING = { state: 'connecting' };
/** @type {Status} */
export const CATCHING_UP = { state: 'catching up' };
/** @type {Status} */
export const LIVE = { state: 'live' };

/** @param {Status} one @param {Status} other */
export function differs(one, other) {
  const names = /** @type {const} */ (['state', 'retryAt', 'error', 'gateway']);
  return names.some((name) => one[name] !== other[name]);
}

/** Calls what is not ours: what it throws is reported, and stops nothing here.
 * @template {any[]} A @param {((...args: A) => void) | undefined} callback @param {A} args */
export function call(callback, ...args) {
  try {
    callback?.(...args);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
