/** How long to wait: exponential, with full jitter, so that clients that lost the same gateway do not come back as one. */
export class Backoff {
  #attempt = 0;
  #firstMs;
  #mostMs;

  /** @param {number} firstMs @param {number} mostMs */
  constructor(firstMs, mostMs) {
    this.#firstMs = firstMs;
    this.#mostMs = mostMs;
  }

  next() {
    return Math.random() * Math.min(this.#firstMs * 2 ** this.#attempt++, this.#mostMs);
  }

  reset() {
    this.#attempt = 0;
  }
}
