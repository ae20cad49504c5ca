/** @import { ConnectOptions } from './types.d.ts' */

// With less left a token is not worth showing.
const LEAST_LEFT_MS = 5_000;
const MOST_REFUSALS = 3;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A token, and where to get another one. */
export class Token {
  #source;
  /** @type {string | null | undefined} */
  #value;
  #refusals = 0;

  /** @param {ConnectOptions['token']} source */
  constructor(source) {
    this.#source = source;
  }

  async get() {
    if (typeof this.#source !== 'function') return this.#source;
    if (!this.#value || this.#leftMs() < LEAST_LEFT_MS) this.#value = await this.#source();
    return this.#value;
  }

  /** The next `get` asks for another one; whether there can be one. */
  renew() {
    this.#value = undefined;
    return typeof this.#source === 'function';
  }

  /** Whether another one may do better. */
  refused() {
    return this.renew() && ++this.#refusals < MOST_REFUSALS;
  }

  accepted() {
    this.#refusals = 0;
  }

  /** When to show a fresh one, if that is known: well before this one expires. A clock that is wrong must not make it
   * ask without end. */
  renewInMs() {
    const leftMs = this.#leftMs();
    if (isNaN(leftMs)) return undefined;
    return Math.min(leftMs > 1_000 ? leftMs * 0.8 : 30_000, LONGEST_TIMER_MS);
  }

  /** Until it expires, if it is a JWT that says when; else NaN. */
  #leftMs() {
    try {
      const claims = String(this.#value).split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
      return JSON.parse(atob(claims)).exp * 1000 - Date.now();
    } catch {
      return NaN;
    }
  }
}
