// @rowcast/client: PostgreSQL row changes from a gateway.

import { Client } from './client.js';

export { Backoff } from './backoff.js';
export { closeOf, retryHint } from './close.js';
export { Client } from './client.js';
export { RowcastError } from './error.js';
export { LiveTable } from './live_table.js';

/** @import { ConnectOptions } from './types.d.ts' */

/** A client of the gateway at `url` (a page's own by default). It connects with its first subscription.
 * @param {string} url @param {ConnectOptions} options @returns {import('./client.js').Client} */
export const connect = (url = '/rowcast', options = {}) => new Client(url, options);
