// How the types read to who uses them: this is only checked, never run.

import { connect, type RowcastError } from '../src/index.js';
import { useRows } from '../src/react.js';

interface Order {
  id: number;
  status: string;
}

const rc = connect('/rowcast', { token: async () => 'a.b.c' });
const subscription = rc.subscribe('public.orders', ({ op, data }) => console.log(op, data.id), {
  conflate: { every_ms: 250 },
  onReset: ({ reason }) => console.log(reason),
  onError: (error) => console.log(error.code),
});
const since: string | undefined = subscription.cursor;
console.log(since);

const orders = rc.live<Order>('public.orders', { initial: async () => [{ id: 1, status: 'open' }] });
const status: string | undefined = orders.rows.get('1')?.status;
console.log(status);

for await (const change of rc.changes(['public.orders'], { limit: 10 })) console.log(change.cursor);

export function Orders() {
  const { rows } = useRows<Order>('public.orders', { initial: async () => [] });
  return rows.map((row) => row.status);
}
export type { RowcastError };
// @ts-expect-error what is misspelt is found
rc.subscribe('public.orders', () => {}, { conflatte: { every_ms: 250 } });
