import { RowcastProvider, useStatus } from '@rowcast/client/react';
import { Sensors } from './Sensors.jsx';
import { State } from './State.jsx';
import { Violations } from './Violations.jsx';
import { useBell } from './bell.js';

// A connection that has died without a word is noticed within 15 s.
const WATERMARK_MS = 5_000;

export function App() {
  const bell = useBell();
  return (
    <RowcastProvider url="/rowcast" watermarkMs={WATERMARK_MS}>
      <header>
        <h1>Dashboard</h1>
        <Connection />
        <button type="button" data-bell={bell.state} aria-pressed={bell.state === 'on'} onClick={bell.press}>
          {{ on: 'Sound on', off: 'Sound off', blocked: 'Click for sound' }[bell.state]}
        </button>
      </header>
      <main>
        <Violations onNew={bell.ring} />
        <Sensors />
      </main>
    </RowcastProvider>
  );
}

/** How the connection is, and through which gateway. What the rows are is said at each table. */
function Connection() {
  const status = useStatus();
  return (
    <div className="connection">
      <State status={status} />
      {status.gateway && <small>through {status.gateway}</small>}
    </div>
  );
}
