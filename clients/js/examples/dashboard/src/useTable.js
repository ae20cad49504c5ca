import { useState } from 'react';
import { useRows } from '@rowcast/client/react';

/** A watched table's rows, newest first, its status, and the last reset if there was one. @param {string} table */
export function useTable(table) {
  const [reset, setReset] = useState(null);
  const { rows, status } = useRows(`public.${table}`, {
    initial: () => load(table),
    onReset: ({ reason }) => setReset({ reason, at: new Date() }),
  });
  return { rows: [...rows].sort((a, b) => b.id - a.id), status, reset };
}

/** All rows that are committed now: what your application's API gives. @param {string} table */
async function load(table) {
  const answer = await fetch(`/tables/${table}`, { cache: 'no-store' });
  if (!answer.ok) throw new Error(`the rows of ${table} cannot be loaded: ${answer.status} ${await answer.text()}`);
  return answer.json();
}
