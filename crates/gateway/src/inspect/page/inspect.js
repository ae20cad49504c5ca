// The page of the inspector: which view is open, and what it shows, again every two seconds.

import { ask, hasToken, setToken } from './api.js';
import { opened, showClients } from './clients.js';
import { $, setNow, span } from './dom.js';
import { showNow, showProblems, showTopics } from './now.js';
import { showAnswer, showChanges } from './why.js';

const EVERY_MS = 2000;
const PAGE = 50;
const VIEWS = ['now', 'clients', 'topics', 'changes', 'why'];

let view = 'now';
let limit = PAGE;
let answered = Date.now();
let paused = false;
/** While a finger is down nothing moves under it. */
let touched = false;
/** The topics are offered wherever one is asked for. */
let topicsAreOffered = false;
let timer;
/** Which answer is wanted: an older question may be answered later. */
let turn = 0;

const order = () => document.querySelector('[name="order"]:checked').value;
const by = () => document.querySelector('[name="by"]:checked').value;

/** What the open view shows by itself. */
const LOOKS = {
  now: async () => {},
  clients: async () => {
    const gone = order() === 'left';
    const search = $('search').value.trim();
    const answer = gone ? await ask('left', { search, limit: 200 }) : await ask('connections', { order: order(), search, limit });
    // Who has left meanwhile is shown as the list has it.
    const whole = await Promise.all(opened(answer).map(({ id }) => ask('connection', { id }).catch(() => null)));
    answer.connections = answer.connections.map((it) => whole.find((one) => one?.id === it.id) ?? it);
    return () => showClients(answer, gone);
  },
  topics: async () => {
    const answer = await ask('topics');
    return () => showTopics(answer);
  },
  changes: async () => {},
  why: async () => {},
};

async function look() {
  clearTimeout(timer);
  const own = ++turn;
  try {
    const [overview, show] = await Promise.all([ask('overview'), LOOKS[view]()]);
    if (own !== turn) return;
    answered = Date.now();
    letIn();
    setNow(overview.now);
    if (!touched) {
      showProblems(overview);
      showNow(overview);
      show?.();
    }
  } catch (error) {
    if (own !== turn) return;
    failed(error);
  }
  if (!paused && !document.hidden && $('login').hidden) timer = setTimeout(look, EVERY_MS);
}

function letIn() {
  if (!topicsAreOffered) {
    topicsAreOffered = true;
    ask('topics').then(showTopics, () => (topicsAreOffered = false));
  }
  $('login').hidden = true;
  $('denied').hidden = true;
  $('tabs').hidden = false;
  $('pause').hidden = false;
  for (const name of VIEWS) $(name).hidden = name !== view;
}

function failed(error) {
  if (error.status === 401) {
    askForToken(hasToken() ? error.message : '');
  } else if (error.status === 403) {
    shut('Not let in');
    $('denied').hidden = false;
    $('denied').textContent = error.message;
  } else {
    $('status').dataset.level = 'error';
    $('verdict').textContent = error.status === 0 ? `This gateway does not answer, for ${span(Date.now() - answered)}` : error.message;
  }
}

function shut(words) {
  $('status').dataset.level = 'unknown';
  $('verdict').textContent = words;
  $('gateway').textContent = '';
  $('tabs').hidden = true;
  $('pause').hidden = true;
  for (const name of VIEWS) $(name).hidden = true;
}

function askForToken(problem) {
  setToken(null);
  shut('Locked');
  $('login').hidden = false;
  $('refused').hidden = !problem;
  $('refused').textContent = problem;
  $('token').focus();
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  setToken($('token').value.trim());
  $('token').value = '';
  $('login').hidden = true;
  look();
});

/** `#why?connection=0-1-2&cursor=…`: where a link leads. Never a token. */
function go() {
  const [name, query] = location.hash.slice(1).split('?');
  const parameters = new URLSearchParams(query ?? '');
  const moved = view !== name;
  view = VIEWS.includes(name) ? name : 'now';
  for (const link of $('tabs').querySelectorAll('a')) {
    link.toggleAttribute('aria-current', link.hash.split('?')[0] === `#${view}`);
  }
  if (!$('tabs').hidden) letIn();
  if (moved) scrollTo(0, 0);
  if (view === 'changes' && parameters.has('topic')) {
    $('topic').value = parameters.get('topic');
    $('key').value = parameters.get('key') ?? '';
    recall();
  }
  if (view === 'why') {
    for (const [id, parameter] of [['connection', 'connection'], ['cursor', 'cursor'], ['why-topic', 'topic'], ['why-key', 'key']]) {
      if (parameters.has(parameter)) $(id).value = parameters.get(parameter);
    }
    if (parameters.has('cursor')) choose('cursor');
    // Whoever comes from the list of clients, or from a change, may have chosen the other one before.
    if (parameters.size > 0 && $('connection').value && $('cursor').value && by() === 'cursor') explain();
  }
  look();
}

function choose(what) {
  document.querySelector(`[name="by"][value="${what}"]`).checked = true;
  $('by-row').hidden = what !== 'row';
  $('by-cursor').hidden = what !== 'cursor';
}

/** Asks for something that is shown below a form. */
async function answer(place, question, show) {
  try {
    const found = await question();
    show(found);
  } catch (error) {
    if (error.status === 401 || error.status === 403) return failed(error);
    place.replaceChildren(Object.assign(document.createElement('p'), { className: 'wrong', textContent: error.message }));
  }
}

function recall() {
  $('recalled').textContent = '';
  return answer($('change-list'), () => ask('changes', { topic: $('topic').value.trim(), key: $('key').value.trim(), limit: 50 }), showChanges);
}

function explain() {
  const change = by() === 'cursor'
    ? { cursor: $('cursor').value.trim() }
    : { topic: $('why-topic').value.trim(), key: $('why-key').value.trim() };
  return answer($('answer'), () => ask('why', { connection: $('connection').value.trim(), ...change }), (found) => {
    showAnswer(found);
    // Beside the form there is no need to.
    if ($('answer').offsetTop > $('ask').offsetTop + 100) $('answer').scrollIntoView({ block: 'start' });
  });
}

$('recall').addEventListener('submit', (event) => {
  event.preventDefault();
  recall();
});
$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  explain();
});
for (const choice of document.querySelectorAll('[name="by"]')) choice.addEventListener('change', () => choose(choice.value));
for (const choice of document.querySelectorAll('[name="order"]')) {
  choice.addEventListener('change', () => {
    limit = PAGE;
    look();
  });
}
document.querySelector('.find').addEventListener('submit', (event) => {
  event.preventDefault();
  look();
});
$('search').addEventListener('input', () => {
  limit = PAGE;
  clearTimeout(timer);
  timer = setTimeout(look, 300);
});
$('more').addEventListener('click', () => {
  limit = Math.min(limit + PAGE, 200);
  look();
});
$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
  $('pause').textContent = paused ? 'Go on' : 'Pause';
  if (!paused) look();
});
addEventListener('pointerdown', () => (touched = true));
for (const end of ['pointerup', 'pointercancel']) addEventListener(end, () => setTimeout(() => (touched = false), 50));
document.addEventListener('visibilitychange', () => document.hidden || paused || look());
addEventListener('hashchange', go);

go();
