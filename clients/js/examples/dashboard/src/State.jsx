import { useEffect, useState } from 'react';

/** A status of the client, in words: nothing is called live that is not. */
export function State({ status }) {
  const { state, retryAt, error } = status;
  const now = useNow(state === 'waiting');
  const seconds = Math.max(0, Math.ceil((retryAt - now) / 1000));
  const words = {
    live: 'Live',
    'catching up': error ? 'Nothing is heard …' : 'Catching up …',
    connecting: 'Connecting …',
    waiting: `${error?.code === 'lost' ? 'Reconnects' : 'Tries again'} in ${seconds} s`,
    failed: 'Failed',
    closed: 'Closed',
  };
  return (
    <p className="state" data-state={state} title={error?.message}>
      {words[state]}
    </p>
  );
}

/** What keeps the rows from being live, unless it is a lost connection, which passes; and that they were loaded anew, because
 * changes may have been missed. */
export function Notes({ status: { error }, reset }) {
  return (
    <>
      {error && error.code !== 'lost' && <p className="note wrong">{error.message}</p>}
      {reset && (
        <p className="note reset">
          Loaded anew at {reset.at.toLocaleTimeString()}: changes may have been missed ({reset.reason}).
        </p>
      )}
    </>
  );
}

/** Of several: the first that is not live. @param {import('@rowcast/client').Status[]} statuses */
export const worst = (statuses) => statuses.find(({ state }) => state !== 'live') ?? statuses[0];

/** The time, four times a second while that matters. @param {boolean} isRunning */
function useNow(isRunning) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!isRunning) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, [isRunning]);
  return now;
}
