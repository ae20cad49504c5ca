// Connections: who lags first, and what there is to know of each.

import { $, ago, bytes, clock, facts, fill, h, many, number, span } from './dom.js';

const STATES = { stuck: 'bad', 'catching up': 'warn', lagging: 'warn', closing: 'warn', 'up to date': 'good', left: '' };
const WORDS = { stuck: 'takes nothing', 'catching up': 'catches up', lagging: 'lags', closing: 'closing', 'up to date': 'up to date', left: 'gone' };

/** Those that are open in the list. */
const open = new Set();

/** A list has the first subscriptions of each; of those that are open, all that are shown. */
export const opened = ({ connections }) => connections.filter((it) => open.has(it.id) && it.subscription_count > it.subscriptions.length);
$('list').addEventListener('toggle', ({ target }) => (target.open ? open.add(target.dataset.id) : open.delete(target.dataset.id)), true);

export function showClients(answer, gone) {
  const { connections, matched, totals } = answer;
  $('found').textContent = gone
    ? `${many(matched, 'connection has', 'connections have')} left and can still be asked about.`
    : matched === totals.connections ? many(matched, 'connection', 'connections') : `${number(matched)} of ${many(totals.connections, 'connection', 'connections')}`;
  fill($('list'), connections.map(card), connections.length === 0 && h('p', { class: 'note' }, 'None.'));
  $('more').hidden = gone || connections.length >= matched;
}

function card(it) {
  const who = users(it) ?? it.client ?? 'unknown';
  const lag = [
    it.behind > 0 && `${many(it.behind, 'change', 'changes')} behind`,
    it.waits_bytes > 0 && `${bytes(it.waits_bytes)} ${it.left ? 'unsent' : 'wait'}`,
    it.stuck_ms >= 1000 && `for ${span(it.stuck_ms)}`,
  ].filter(Boolean);
  return h('details', { class: 'card client', 'data-id': it.id, open: open.has(it.id) },
    h('summary', null,
      h('div', { class: 'top' },
        h('span', { class: 'name' }, who),
        h('span', { class: `badge ${STATES[it.state]}` }, WORDS[it.state] ?? it.state)),
      lag.length > 0 && h('p', { class: 'line' }, h('b', null, lag.join(' · '))),
      h('p', { class: 'line' }, `${it.door} · ${summary(it)} · ${it.left ? `left ${ago(it.left)}` : `since ${ago(it.since).replace(' ago', '')}`}`)),
    h('div', { class: 'inside' }, connectionFacts(it), it.subscriptions.map((sub) => subscription(sub, it.subjects.length > 1)),
      it.subscription_count > it.subscriptions.length && h('p', { class: 'note' }, `${it.subscription_count - it.subscriptions.length} more subscriptions are not shown.`),
      h('div', { class: 'actions' }, h('a', { class: 'button', href: `#why?connection=${it.id}` }, 'Why did it not get …?'))));
}

/** Each channel of Supabase's protocol may be another user's. */
export function users({ subjects }) {
  return subjects.length > 1 ? `${subjects[0]} and ${many(subjects.length - 1, 'other', 'others')}` : subjects[0];
}

function summary({ subscriptions, subscription_count: count }) {
  const [first, ...others] = new Set(subscriptions.flatMap((sub) => sub.topics));
  if (!first) return 'no subscription';
  if (count > subscriptions.length) return `${first} and others, ${many(count, 'subscription', 'subscriptions')}`;
  return others.length === 0 ? first : `${first} and ${others.length} more`;
}

export function connectionFacts(it) {
  // What has the client's address from a header: at the other end is a proxy, and it acknowledges.
  const forwarded = it.client && it.peer && !it.peer.startsWith(it.client) && !it.peer.startsWith(`[${it.client}]`);
  return facts([
    ['Connection', h('span', { class: 'mono' }, it.id)],
    it.subjects.length > 0 && [it.subjects.length > 1 ? 'Users' : 'User', it.subjects.join(', ')],
    ['Address', forwarded ? `${it.client}, through ${it.peer}` : it.peer ?? 'not known'],
    ['Came', `${clock(it.since)} (${ago(it.since)})`],
    it.left && ['Left', `${clock(it.left)} (${ago(it.left)})`],
    it.left
      ? ['Unsent', bytes(it.waits_bytes)]
      : ['Waits here', `${bytes(it.waits_bytes)}${it.stuck_ms >= 1000 ? `, nothing taken for ${span(it.stuck_ms)}` : ''}`],
    !it.left && ['In the kernel', it.kernel_bytes == null ? 'not known' : `${it.kernel_bytes === 0 ? 'nothing: all is acknowledged' : `${bytes(it.kernel_bytes)}, not acknowledged`}${forwarded ? ' by the proxy' : ''}`],
    it.heard_ms != null && it.door !== 'sse' && ['Heard of', `${span(it.heard_ms)} ago`],
    it.may_subscribe && ['May subscribe to', it.may_subscribe.join(', ') || 'nothing'],
  ]);
}

function subscription(sub, ofSeveral) {
  return h('div', { class: 'sub' },
    h('div', { class: 'top' },
      h('span', { class: 'name' }, sub.topics.join(', ')),
      h('span', { class: `badge ${sub.state.startsWith('live') ? 'good' : sub.state === 'ended' ? '' : 'warn'}` }, sub.state)),
    facts([
      sub.id && ['Name', sub.id],
      ofSeveral && sub.subject && ['User', sub.subject],
      sub.conflate_ms && ['Conflated', `one a row in ${span(sub.conflate_ms)}`],
      sub.cursors.length > 0 && [sub.ended ? 'Was at' : 'Is at', h('span', { class: 'mono' }, sub.cursors.join(', '))],
      sub.began.length > 0 && [sub.resumed ? 'Resumed from' : 'Began at', h('span', { class: 'mono' }, sub.began.join(', '))],
      sub.since && ['Since', clock(sub.since)],
      sub.ended && ['Ended', clock(sub.ended)],
      ...sub.resets.map((reset) => ['Told reset', `${reset.reason}, ${clock(reset.at)}`]),
    ]));
}
