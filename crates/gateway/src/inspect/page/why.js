// The last changes, and why a client did not get one.

import { connectionFacts, users } from './clients.js';
import { $, ago, bytes, clock, facts, fill, h, together } from './dom.js';

const STATES = {
  sent: ['Sent', 'good'],
  coalesced: ['Sent, conflated', 'good'],
  not_sent_yet: ['Not sent yet', 'warn'],
  not_here_yet: ['Not here yet', 'warn'],
  not_sent: ['Not sent', 'bad'],
  reset: ['Passed over by a reset', 'bad'],
  denied: ['Denied', 'bad'],
  filtered: ['Filtered', 'warn'],
  not_subscribed: ['Not subscribed', 'warn'],
  before_it_began: ['Before it began', 'warn'],
  ended: ['After its end', 'warn'],
  trimmed: ['No longer kept', ''],
  other_feed: ['Of another feed', ''],
  several: ['Several answers', ''],
  other_topic: ['Other topics', ''],
  unknown: ['Not known', ''],
};
const OPS = { INSERT: 'good', UPDATE: '', DELETE: 'bad', TRUNCATE: 'bad' };

export function showChanges({ topic, source, from, changes }) {
  $('recalled').textContent = changes.length === 0
    ? 'None was found, in memory nor in what is kept of the history.'
    : `The newest first, from ${from === 'memory' ? 'memory' : 'the history'}.`;
  fill($('change-list'), [...changes].reverse().map((change) => h('li', { class: 'card change' }, shown(change),
    h('div', { class: 'actions' },
      source === 'log' && keyOf(change) && h('a', { class: 'button', href: `#changes?${new URLSearchParams({ topic, key: keyOf(change) })}` }, 'This row'),
      h('a', { class: 'button', href: `#why?${new URLSearchParams({ cursor: change.cursor })}` }, 'Who did not get it?')))));
}

function keyOf(change) {
  const row = change.data ?? change.old;
  if (!change.key || !row) return null;
  return JSON.stringify(Object.fromEntries(change.key.map((name) => [name, row[name]])));
}

function shown(change) {
  const large = change.not_shown_bytes != null;
  return [
    h('div', { class: 'top' },
      h('span', { class: `badge ${OPS[change.op] ?? ''}` }, change.op ?? 'NOTIFY'),
      h('span', { class: 'name' }, change.topic)),
    facts([
      ['Cursor', h('span', { class: 'mono' }, change.cursor)],
      ['At', `${clock(change.at, 12)} (${ago(change.at)})`],
      change.tx && ['Transaction', change.tx],
      change.cut && ['Without', change.cut.join(', ')],
      !large && changed(change)?.length > 0 && ['Changed', changed(change)],
      large && ['Size', `${bytes(change.not_shown_bytes)}: too large to be shown`],
    ]),
    !large && change.data != null && h('pre', null, line(change.data)),
    !large && change.data == null && change.old != null && h('pre', null, line(change.old)),
  ];
}

const line = (value) => (typeof value === 'string' ? value : JSON.stringify(value).replace(/,"/g, ', "'));

/** Of an update whose old row was kept, what it changed. */
function changed({ op, data, old }) {
  if (op !== 'UPDATE' || !data || !old) return null;
  const different = Object.keys(old).filter((name) => JSON.stringify(old[name]) !== JSON.stringify(data[name]));
  const short = (value) => (line(value ?? null).length > 40 ? `${line(value).slice(0, 40)}…` : line(value ?? null));
  return different.map((name) => h('div', null, `${name}: ${short(old[name])} → ${short(data[name])}`));
}

/** A sentence without what is said above it. */
function besides(words, text) {
  const rest = text.startsWith(`${words}: `) ? text.slice(words.length + 2) : text;
  return rest[0].toUpperCase() + rest.slice(1);
}

export function showAnswer({ state, text, change, client, subscriptions }) {
  const [words, kind] = STATES[state] ?? [state, ''];
  const told = subscriptions.filter((sub) => sub.state !== 'other_topic');
  fill($('answer'),
    h('div', { class: `verdict ${kind}`, 'data-state': state }, h('span', { class: `badge ${kind}` }, words), h('p', null, together(besides(words, text)))),
    new Set(told.map((sub) => sub.text)).size > 1 && told.map((sub) => {
      const [words, kind] = STATES[sub.state] ?? [sub.state, ''];
      return h('div', { class: 'card' },
        h('div', { class: 'top' }, h('span', { class: 'name' }, sub.id || sub.topics.join(', ')), h('span', { class: `badge ${kind}` }, words)),
        h('p', { class: 'line' }, together(sub.text)));
    }),
    change && h('div', { class: 'card change' }, shown(change)),
    client && h('div', { class: 'card' }, h('div', { class: 'top' }, h('span', { class: 'name' }, users(client) ?? client.client ?? client.id)), connectionFacts(client)));
}
