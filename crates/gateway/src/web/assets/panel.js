// One system on the page: its rows, its gaps, and the button that writes a row.

import { describe } from './systems.js';

const KEPT_ROWS = 200;
const WAITING_IDS = 100;
// Thousands of changes a second: drawing all of them in every frame would hold up the reading.
const MANY_ROWS = 40;
const PAUSE_MS = 250;

const REASONS = {
  new_feed: 'The listener lost its place in PostgreSQL, and notifications are not kept while nobody listens.',
  history_trimmed: 'This page was away for longer than changes are kept.',
  unknown_cursor: 'The gateway does not know the place where this page left off.',
  too_slow: 'This page read too slowly.',
};

const REFUSALS = {
  not_ready: ['not ready', 'No listener has announced its topics yet, or Redis is away. Trying again.'],
  forbidden: ['not allowed', 'The gateway does not allow this topic here.'],
  unauthorized: ['not allowed', 'The gateway wants a token, and this page has none.'],
};

export class Panel {
  #system;
  #root;
  #received = 0;
  #queue = [];
  #scheduled = false;
  #drewMany = false;
  #arrivals = new Map(); // id of a stored row → when its change came, for the button's stopwatch
  #awaited = null;

  constructor(system, template) {
    this.#system = system;
    this.#root = template.content.firstElementChild.cloneNode(true);
    this.#root.id = system.id;
    this.#root.setAttribute('aria-label', system.title);
    this.#find('h2').textContent = system.title;
    this.#find('.topic').textContent = system.topic;
    this.#find('.write').textContent = system.button;
    this.#find('.sql').textContent = system.sql;
    this.#find('.rows').setAttribute('aria-label', `${system.title}, newest first`);
    this.#find('.write').addEventListener('click', () => this.#write());
    this.#find('.copy').addEventListener('click', () => this.#copy());
    this.#say('', `Sends one row by POST ${system.path}`);
    this.subscription('waiting');
  }

  get element() {
    return this.#root;
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  /** Whether changes flow: 'waiting', 'live' or 'lost'. */
  subscription(state) {
    this.#root.dataset.state = state;
    if (state === 'live') this.#find('.refused').hidden = true;
    this.#count();
  }

  refused(code, message) {
    const system = this.#system;
    const unknown = ['unknown topic', `No listener carries ${system.topic}. Add it to channels in rowcast.toml, or to ROWCAST_CHANNELS, load sql/examples/${system.example}, and restart the listener. Trying again.`];
    const [short, words] = code === 'unknown_topic' ? unknown : REFUSALS[code] ?? ['refused', message];
    this.#root.dataset.state = code;
    this.#find('.subscription').textContent = short;
    this.#find('.refused').textContent = words;
    this.#find('.refused').hidden = false;
  }

  /** @param {number|null} delayMs null where the change was caught up */
  change({ data, at, cursor }, delayMs) {
    this.#received += 1;
    this.#add(() => this.#row(data, at, cursor, delayMs));
    const id = this.#system.row(data)?.id;
    if (id === undefined) return;
    this.#arrivals.set(id, performance.now());
    if (this.#arrivals.size > WAITING_IDS) this.#arrivals.delete(this.#arrivals.keys().next().value);
    if (this.#awaited?.id === id) this.#arrived();
  }

  gap(reason) {
    this.#add(() => this.#mark('gap', 'Something may have been missed here.', REASONS[reason] ?? reason));
  }

  resumed(gateway) {
    // Before the first row there is nothing to be continued.
    if (this.#received > 0) this.#add(() => this.#mark('resumed', gateway ? `Resumed through ${gateway}.` : 'Resumed.', 'Nothing missed.'));
  }

  // Rows are drawn once a frame at most, and only those that stay.
  #add(draw) {
    this.#queue.push(draw);
    if (this.#queue.length > KEPT_ROWS) this.#queue.shift();
    if (this.#scheduled) return;
    this.#scheduled = true;
    setTimeout(() => requestAnimationFrame(() => this.#flush()), this.#drewMany ? PAUSE_MS : 0);
  }

  #flush() {
    this.#scheduled = false;
    this.#drewMany = this.#queue.length > MANY_ROWS;
    const rows = this.#find('.rows');
    const drawn = this.#queue.splice(0).map((draw) => draw()).reverse();
    if (!this.#drewMany) drawn.forEach((row) => row.classList.add('fresh'));
    rows.prepend(...drawn);
    while (rows.childElementCount > KEPT_ROWS) rows.lastElementChild.remove();
    this.#find('.empty').hidden = true;
    this.#count();
  }

  #count() {
    const state = this.#root.dataset.state;
    const count = `${this.#received.toLocaleString('en')} received${this.#received > KEPT_ROWS ? `, ${KEPT_ROWS} kept` : ''}`;
    if (state === 'live' || state === 'lost') this.#find('.subscription').textContent = count;
    else if (state === 'waiting') this.#find('.subscription').textContent = 'waiting';
  }

  #row(data, at, cursor, delayMs) {
    const { op, title, figure, detail } = describe(this.#system, data);
    const head = make('summary', '',
      make('time', 'at', clock(at)),
      make('span', 'title', title),
      figure !== undefined && make('span', 'figure', figure),
      op && make('span', `op ${op}`, op),
      make('span', 'detail', detail.join(' · ')),
      make('span', 'delay', delayMs === null ? 'caught up' : milliseconds(delayMs)));
    head.querySelector('time').dateTime = at;
    const details = make('details', '', head);
    // The payload is written out only for who asks.
    details.addEventListener('toggle', () => {
      details.append(make('pre', '', JSON.stringify(data, null, 2)), make('p', 'cursor', `cursor ${cursor}`));
    }, { once: true });
    const row = make('li', 'row', details);
    row.dataset.cursor = cursor;
    return row;
  }

  #mark(kind, words, why) {
    return make('li', `mark ${kind}`, make('time', 'at', clock(new Date())), make('p', '', make('strong', '', words), ' ', make('span', '', why)));
  }

  async #write() {
    const button = this.#find('.write');
    button.disabled = true;
    this.#awaited = null;
    const from = performance.now();
    try {
      const answer = await fetch(this.#system.path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(this.#system.sample()),
        signal: AbortSignal.timeout(10_000),
      });
      const body = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Error(inWords(answer.status, body.message, this.#system));
      this.#awaited = { id: body.id, from };
      this.#say('', `Stored as ${body.id}. Its change has not come yet.`);
      if (this.#arrivals.has(body.id)) this.#arrived();
    } catch (error) {
      const unreachable = error instanceof TypeError && 'No gateway answered. Nothing was stored.';
      const late = error.name === 'TimeoutError' && 'No answer within 10 s. It may have been stored all the same.';
      this.#say('wrong', late || unreachable || error.message);
    } finally {
      button.disabled = false;
    }
  }

  /** The change that the button made is here: both ends of the way by one clock. */
  #arrived() {
    const { id, from } = this.#awaited;
    this.#awaited = null;
    this.#say('right', `Stored as ${id}. Its change was here ${milliseconds(this.#arrivals.get(id) - from)} after the click.`);
  }

  #say(how, words) {
    this.#find('.said').className = `said ${how}`;
    this.#find('.said').textContent = words;
  }

  async #copy() {
    const button = this.#find('.copy');
    try {
      await navigator.clipboard.writeText(this.#system.sql);
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = 'Copy'; }, 1_500);
    } catch {
      // Not allowed to write the clipboard: select it, and the user's own keys do.
      getSelection().selectAllChildren(this.#find('.sql'));
    }
  }
}

function inWords(status, message, system) {
  const says = message ? ` The gateway says: ${message}` : '';
  switch (status) {
    case 401: case 403: return `Not allowed to write here.${says}`;
    case 404: return `This gateway does not take POST ${system.path}: rowcast.toml has no [[ingest]] for it.`;
    case 422: return `PostgreSQL refused the row.${says}`;
    case 429: return 'Too many requests. Wait a moment.';
    case 502: case 503: case 504: return `The gateway or its database is away. Nothing was stored.${says}`;
    default: return `It was not stored (HTTP ${status}).${says}`;
  }
}

function make(name, className, ...children) {
  const it = document.createElement(name);
  if (className) it.className = className;
  it.append(...children.filter((child) => child !== undefined && child !== false && child !== null && child !== ''));
  return it;
}

function clock(at) {
  const date = new Date(at);
  return Number.isNaN(date.getTime()) ? '' : date.toLocaleTimeString('en-GB');
}

export function milliseconds(ms) {
  if (ms >= 10_000) return `${Math.round(ms / 1_000)} s`;
  return ms < 1 ? '< 1 ms' : `${Math.round(ms)} ms`;
}
