// The demo page: three systems over one connection, and the truth about that connection.

import { Chart } from './chart.js';
import { Connection } from './connection.js';
import { Panel, milliseconds } from './panel.js';
import { Sound } from './sound.js';
import { SYSTEMS } from './systems.js';

const RESET_SHOWN_MS = 8_000;
const DELAYS_KEPT_MS = 60_000;
const CLOCKS_DIFFER_MS = -2;

const find = (id) => document.getElementById(id);

const panels = new Map(SYSTEMS.map((system) => [system.id, new Panel(system, find('panel'))]));
find('panels').append(...[...panels.values()].map((panel) => panel.element));

const systems = new Map(SYSTEMS.map((system) => [system.id, system]));
const sound = new Sound(find('sound'), find('sound-words'), '/assets/ping.wav');
const chart = new Chart(SYSTEMS.map(({ id }) => id), {
  svg: find('chart'),
  now: find('rate-now'),
  peak: find('rate-peak'),
  top: find('rate-top'),
  offlineLegend: find('offline-legend'),
});

const numbers = { received: 0, resumed: 0, resets: 0 };
let delays = []; // [when, milliseconds] of the last minute
let status = { state: 'connecting' };
let lastGateway;
let resetAt = -Infinity;
let resumeCounted = false;

const WORDS = {
  connecting: 'Connecting',
  open: 'Connected, waiting for topics',
  live: 'Live',
  reset: 'Live, after a reset',
  reconnecting: 'Reconnecting',
};

function showStatus() {
  const sinceReset = performance.now() - resetAt;
  const afterReset = status.state === 'live' && sinceReset < RESET_SHOWN_MS;
  const state = afterReset ? 'reset' : status.state === 'connecting' && lastGateway ? 'reconnecting' : status.state;
  find('status').dataset.state = state;
  setText('state', WORDS[state]);
  setText('gateway', gatewayWords(state));
  find('status').title = status.version ? `rowcast ${status.version}` : '';
  if (afterReset) setTimeout(showStatus, RESET_SHOWN_MS - sinceReset + 10);
}

function gatewayWords(state) {
  if (status.gateway && state !== 'reconnecting') return `through ${status.gateway}`;
  if (state === 'reconnecting' && lastGateway) return `lost ${lastGateway}`;
  return '';
}

// A live region speaks whenever it is written to: write only what is new.
function setText(id, text) {
  if (find(id).textContent !== text) find(id).textContent = text;
}

function showCountdown() {
  const left = status.retryAt ? status.retryAt - performance.now() : 0;
  setText('countdown', left > 500 ? `next try in ${Math.ceil(left / 1_000)} s` : '');
  find('retry').hidden = !(status.retryAt && left > 1_500);
}

function notice(words) {
  find('notice').hidden = !words;
  setText('notice', words ?? '');
}

let dirty = false;
function showNumbers() {
  dirty = false;
  find('received').textContent = numbers.received.toLocaleString('en');
  find('resumed').textContent = numbers.resumed.toLocaleString('en');
  find('resumed-unit').textContent = numbers.resumed === 1 ? 'time' : 'times';
  find('resumed-note').textContent = numbers.resumed ? 'reconnected, nothing missed' : 'no reconnect so far';
  find('resets-note').textContent = numbers.resets ? numbers.resets === 1 ? 'a gap, marked in the lists' : 'gaps, marked in the lists' : 'no gap so far';
  find('resets').textContent = numbers.resets.toLocaleString('en');
  find('resets-number').classList.toggle('some', numbers.resets > 0);
}

function numbersChanged() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(showNumbers);
}

function showDelay() {
  const now = performance.now();
  delays = delays.filter(([when]) => now - when < DELAYS_KEPT_MS);
  const sorted = delays.map(([, ms]) => ms).sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)];
  const clocksDiffer = median < CLOCKS_DIFFER_MS;
  find('delay').textContent = median === undefined || clocksDiffer ? '–' : milliseconds(median);
  find('delay-note').textContent = clocksDiffer
    ? 'unknown: the two clocks differ'
    : 'listener to screen, two clocks';
}

const connection = new Connection(
  `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/rowcast`,
  SYSTEMS,
  {
    status(now) {
      const gone = now.state === 'reconnecting' && status.state !== 'reconnecting' && status.state !== 'connecting';
      status = now;
      if (now.gateway) lastGateway = now.gateway;
      if (gone) panels.forEach((panel) => panel.subscription('lost'));
      if (now.state === 'open') resumeCounted = false;
      if (now.state === 'live' || now.why) notice(now.why && `The connection was closed: ${now.why}.`);
      chart.online = now.state === 'live';
      showStatus();
      showCountdown();
    },
    subscribed(id, resumed) {
      panels.get(id).subscription('live');
      if (!resumed) return;
      panels.get(id).resumed(status.gateway);
      // One reconnect resumes three subscriptions, and is told once.
      if (!resumeCounted) numbers.resumed += 1;
      resumeCounted = true;
      numbersChanged();
    },
    change(id, change, caughtUp) {
      const delay = caughtUp ? null : Date.now() - Date.parse(change.at);
      numbers.received += 1;
      numbersChanged();
      if (delay !== null && Number.isFinite(delay)) delays.push([performance.now(), delay]);
      if (delays.length > 5_000) delays.shift();
      chart.count(id);
      panels.get(id).change(change, delay);
      if (systems.get(id).isAlarm?.(change.data)) sound.play();
    },
    reset(id, reason) {
      // Likewise: the three that come together are one.
      if (performance.now() - resetAt > 1_000) numbers.resets += 1;
      resetAt = performance.now();
      panels.get(id).gap(reason);
      numbersChanged();
      showStatus();
    },
    refused(id, code, message) {
      if (panels.has(id)) panels.get(id).refused(code, message);
      else notice(`The gateway refused a message of this page: ${message}`);
    },
  },
);

find('retry').addEventListener('click', () => connection.connect());
setInterval(showCountdown, 250);
setInterval(showDelay, 1_000);
connection.connect();
