import { RowcastError } from './error.js';

/** @import { Client } from './client.js' */
/** @import { Change, ChangesOptions, Reset } from './types.d.ts' */

/**
 * Changes as a loop. While `limit` of them wait, the subscription is paused; what comes meanwhile is kept by the
 * gateways, as for one that is away. A reset ends the loop with an error, unless there is an `onReset`, which is called
 * at its place between the changes.
 *
 * @param {Client} client @param {string | string[]} topics @param {ChangesOptions} options
 * @returns {AsyncGenerator<Change, void, void>}
 */
export async function* changes(client, topics, { limit = 1000, onReset, ...options } = {}) {
  /** @type {(Change | Reset)[]} */
  let queue = [];
  /** @type {Error | undefined} */
  let failure;
  let go = () => {};
  /** @param {Change | Reset} item */
  const put = (item) => {
    if (queue.push(item) >= limit) sub.pause();
    go();
  };
  const sub = client.subscribe(topics, put, {
    ...options,
    onReset: put,
    onError: (error) => {
      if (error.temporary) console.error(error);
      else failure = error;
      go();
    },
    onStatus: () => go(),
  });
  try {
    while (true) {
      const items = queue;
      queue = [];
      for (const item of items) {
        if (item.type === 'change') yield item;
        else if (onReset) onReset(item);
        else throw new RowcastError('reset', `${item.reason}: changes before ${item.cursor} may be missing`);
      }
      if (queue.length) continue;
      if (failure) throw failure;
      if (sub.status.state === 'closed') return;
      const called = new Promise((resolve) => (go = () => resolve(undefined)));
      sub.resume();
      await called;
    }
  } finally {
    sub.unsubscribe();
  }
}
