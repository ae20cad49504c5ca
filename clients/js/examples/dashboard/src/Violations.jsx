import { memo } from 'react';
import { useChanges } from '@rowcast/client/react';
import { List } from './List.jsx';
import { Send } from './Send.jsx';
import { Notes, State, worst } from './State.jsx';
import { useTable } from './useTable.js';

const KINDS = {
  violation_humandetections: 'Person',
  violation_lotodetections: 'Lockout',
  violation_ppedetections: 'Equipment',
};
const TABLES = Object.keys(KINDS);
const TOPICS = TABLES.map((table) => `public.${table}`);

/** The page of the violations recipe: the rows of its three tables as one list. Calls `onNew` for each new one. */
export function Violations({ onNew }) {
  // As many hooks at every render: the list of tables never changes.
  const tables = TABLES.map(useTable);
  const rows = tables.flatMap(({ rows }, at) => rows.map((row) => ({ ...row, table: TABLES[at] })));
  const when = ({ violation_date, violation_time }) => `${violation_date}T${violation_time}`;
  rows.sort((a, b) => when(b).localeCompare(when(a)) || b.id - a.id);

  const status = worst(tables.map(({ status }) => status));

  useChanges(TOPICS, ({ op, topic, data }) => {
    if (op !== 'INSERT') return;
    console.log(`Violation from ${topic}:`, data);
    onNew();
  });

  return (
    <section id="violations">
      <h2>Violations</h2>
      <State status={status} />
      <Notes status={status} reset={tables.map(({ reset }) => reset).find(Boolean)} />
      <List rows={rows} Row={Violation} isLive={status.state === 'live'} empty="No violations. A new one rings." />
      <Send path="/api/violations/" row={(form) => ({ camera_id: Number(form.get('camera')) })} label="Report person">
        <input name="camera" type="number" min="1" defaultValue="7" required aria-label="Camera" />
      </Send>
    </section>
  );
}

const Violation = memo(
  ({ row }) => (
    <li data-id={row.id} data-table={row.table}>
      <span className="kind">{KINDS[row.table]}</span>
      <b>Camera {row.camera_id}</b>
      <time dateTime={row.violation_date}>
        {row.violation_date} {row.violation_time}
      </time>
    </li>
  ),
  (before, after) => JSON.stringify(before.row) === JSON.stringify(after.row),
);
