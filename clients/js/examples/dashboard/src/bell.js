import { useEffect, useRef, useState } from 'react';

const APART_MS = 250; // a burst rings once

/** A bell, and whether it can be heard: `on`, `off`, or `blocked`, because browsers allow no sound before a first click. */
export function useBell() {
  const context = useRef(null);
  const lastAt = useRef(-Infinity);
  const [isWanted, setIsWanted] = useState(true);
  const [isRunning, setIsRunning] = useState(false);

  useEffect(() => {
    const audio = (context.current = new AudioContext());
    const look = () => setIsRunning(audio.state === 'running');
    const resume = () => audio.resume();
    audio.onstatechange = look;
    look();
    // Any click or key will do.
    document.addEventListener('pointerup', resume);
    document.addEventListener('keydown', resume);
    return () => {
      document.removeEventListener('pointerup', resume);
      document.removeEventListener('keydown', resume);
      audio.onstatechange = null;
      audio.close();
    };
  }, []);

  const state = !isWanted ? 'off' : isRunning ? 'on' : 'blocked';

  function ring() {
    const now = performance.now();
    if (state !== 'on' || now - lastAt.current < APART_MS) return;
    lastAt.current = now;
    tone(context.current);
  }

  function press() {
    if (state === 'blocked') return; // this very click allows it
    setIsWanted(!isWanted);
    if (!isWanted) tone(context.current); // so that one hears what was switched on
  }

  return { state, ring, press };
}

/** @param {AudioContext} audio */
function tone(audio) {
  const [oscillator, gain] = [audio.createOscillator(), audio.createGain()];
  oscillator.frequency.value = 880;
  gain.gain.setValueAtTime(0.3, audio.currentTime);
  gain.gain.exponentialRampToValueAtTime(0.001, audio.currentTime + 0.6);
  oscillator.connect(gain).connect(audio.destination);
  oscillator.start();
  oscillator.stop(audio.currentTime + 0.6);
}
