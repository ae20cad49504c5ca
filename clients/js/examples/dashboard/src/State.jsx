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
    waiting: `Reconnects in ${seconds} s`,
    failed: `Failed: ${error?.message}`,
    closed: 'Closed',
  };
  return (
    <p className="state" data-state={state} title={error?.message}>
      {words[state]}
    </p>
  );
}

/** What may be missing has been loaded anew: when, and why. */
export function Reset({ reset }) {
  if (!reset) return null;
  return (
    <p className="reset">
      Loaded anew at {reset.at.toLocaleTimeString()}: changes may have been missed ({reset.reason}).
    </p>
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
