// What is wrong, feeds, and clients in numbers.

import { $, ago, bytes, clock, facts, fill, h, many, number, span, together } from './dom.js';

const STATES = { live: 'good', lost: 'bad', repairing: 'warn' };

export function showProblems(overview) {
  const { problems, gateway, version, uptime_s: uptime } = overview;
  const level = problems[0]?.level ?? 'well';
  $('status').dataset.level = level;
  $('verdict').textContent = problems.length === 0
    ? 'Nothing is wrong here'
    : problems.length === 1 ? together(problems[0].text) : `${together(problems[0].text)} – and ${problems.length - 1} more`;
  $('gateway').textContent = `${gateway} · ${version} · up ${span(uptime * 1000)}`;
}

export function showNow(overview) {
  const { problems, feeds, connections } = overview;
  fill($('problems'), problems.length
    ? problems.map(({ level, text, hint }) => h('div', { class: `problem ${level}` }, h('strong', null, together(text)), h('p', null, hint)))
    : h('div', { class: 'problem well' }, h('strong', null, 'Nothing is wrong here'),
      h('p', null, 'This gateway has Redis, hears its feeds, and every client takes what it is sent.')));
  // The one that loses nothing is what most have.
  fill($('feeds'), feeds.toSorted((a, b) => a.source.localeCompare(b.source)).map(feed));
  const figure = (name, value, kind) => h('div', { class: value ? kind : null }, h('dt', null, name), h('dd', null, number(value)));
  fill($('totals'),
    figure('open', connections.connections),
    Object.entries(connections.doors).map(([door, count]) => figure(door, count)),
    figure('take nothing', connections.stuck, 'bad'),
    figure('catch up', connections.catching_up, 'warn'),
    figure('lag', connections.lagging, 'warn'),
    figure('being closed', connections.closing));
}

function feed(of) {
  const memory = of.shards.reduce((sum, shard) => sum + shard.memory_bytes, 0);
  const has = of.feed != null;
  return h('div', { class: 'card', 'data-feed': of.source },
    h('div', { class: 'top' },
      h('span', { class: 'name' }, of.source === 'log' ? 'Watched tables (log)' : 'NOTIFY channels'),
      h('span', { class: `badge ${STATES[of.state] ?? ''}` }, of.state)),
    has && facts([
      ['Cursor', h('span', { class: 'mono' }, `${of.feed}.${of.offset}`)],
      ['Complete up to', `${clock(of.at)} (${span(of.age_ms)})`],
      ['Last heard', `${span(of.silent_ms)} ago`],
      ['In memory', `from offset ${number(of.memory_after + 1)}, ${bytes(memory)}`],
      ['Gaps', of.gaps ? `${number(of.gaps)}, ${number(of.repairs)} repaired` : 'none'],
      of.state !== 'live' && ['Is so for', span(of.state_for_ms)],
    ]),
    !has && h('p', { class: 'line' }, 'No listener has begun it. That is as it should be where this source is not used.'));
}

export function showTopics({ topics, topic_count: all, routes }) {
  fill($('topic-list'), topics.map((topic) => h('a', { class: 'card topic', href: `#changes?topic=${encodeURIComponent(topic.topic)}` },
    h('div', { class: 'top' },
      h('span', { class: 'name' }, topic.topic),
      !topic.carried && h('span', { class: 'badge warn' }, 'not carried'),
      h('span', { class: 'aside' }, topic.changes_per_s == null ? '' : `${rate(topic.changes_per_s)} /s`)),
    h('p', { class: 'line' },
      h('b', null, many(topic.subscriptions, 'subscription', 'subscriptions')),
      topic.source ? ` · ${topic.source} · ` : ' · ',
      topic.last_at ? `last change ${ago(topic.last_at)}` : topic.source ? 'no change seen here yet' : 'nothing comes of it'))),
  topics.length < all && h('p', { class: 'note' }, `${number(all - topics.length)} more are not shown.`),
  topics.length === 0 && h('p', { class: 'note' }, 'No listener carries anything.'));
  fill($('routes'), routes.map((route) => h('div', { class: 'card' },
    h('div', { class: 'top' },
      h('span', { class: 'name' }, route.topics.join(', ')),
      h('span', { class: 'aside' }, `${rate(route.matches_per_s)} /s`)),
    h('p', { class: 'line' },
      h('b', null, many(route.subscriptions, 'subscription', 'subscriptions')),
      ` · ${route.form}${route.conflate_ms ? ` · one a row in ${span(route.conflate_ms)}` : ''} · ${many(route.matches, 'match', 'matches')}`))),
  routes.length === 0 && h('p', { class: 'note' }, 'Nobody is subscribed to anything.'));
  fill($('known-topics'), topics.map((topic) => h('option', { value: topic.topic })));
}

const rate = (per_s) => (per_s === 0 ? '0' : per_s < 10 ? per_s.toFixed(1) : number(Math.round(per_s)));
