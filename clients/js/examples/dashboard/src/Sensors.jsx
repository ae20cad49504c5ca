import { memo } from 'react';
import { List } from './List.jsx';
import { Send } from './Send.jsx';
import { Notes, State } from './State.jsx';
import { useTable } from './useTable.js';

const POINTS = 60;

/** The page of the sensors recipe: how each sensor stands, and all readings. */
export function Sensors() {
  const { rows, status, reset } = useTable('sensor_readings');
  const sensors = new Map();
  for (const row of rows) sensors.set(row.sensor_id, sensors.get(row.sensor_id) ?? []).get(row.sensor_id).push(row);
  return (
    <section id="sensors">
      <h2>Sensors</h2>
      <State status={status} />
      <Notes status={status} reset={reset} />
      <div className="tiles">
        {[...sensors].sort(([a], [b]) => a.localeCompare(b)).map(([name, readings]) => (
          <Tile key={name} name={name} readings={readings} />
        ))}
      </div>
      <List rows={rows} Row={Reading} isLive={status.state === 'live'} empty="Waiting for sensor data..." />
      <Send path="/api/sensors/" row={fromForm} label="Send reading">
        <input name="sensor_id" defaultValue="sensor1" required aria-label="Sensor" />
        <input name="value" type="number" step="any" defaultValue="25.5" required aria-label="Value" />
      </Send>
    </section>
  );
}

const fromForm = (form) => ({ sensor_id: form.get('sensor_id'), value: Number(form.get('value')), metadata: { unit: 'celsius' } });

const UNITS = { celsius: '°C' };
const unit = ({ metadata }) => UNITS[metadata?.unit] ?? metadata?.unit ?? '';

function Tile({ name, readings: [latest, ...earlier] }) {
  const values = [latest, ...earlier.slice(0, POINTS - 1)].map((row) => row.value).reverse();
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const x = (at) => (values.length > 1 ? (at * 100) / (values.length - 1) : 50);
  const y = (value) => (most > least ? 28 - (24 * (value - least)) / (most - least) : 16);
  const points = values.map((value, at) => `${x(at)},${y(value)}`);
  return (
    <figure>
      <figcaption>{name}</figcaption>
      <strong>
        {latest.value} <small>{unit(latest)}</small>
      </strong>
      <svg viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true">
        <polyline points={points.join(' ')} />
      </svg>
    </figure>
  );
}

const Reading = memo(({ row }) => (
  <li data-id={row.id}>
    <span>{row.sensor_id}</span>
    <b>
      {row.value} {unit(row)}
    </b>
    <time dateTime={row.timestamp}>{new Date(row.timestamp).toLocaleTimeString()}</time>
  </li>
));
