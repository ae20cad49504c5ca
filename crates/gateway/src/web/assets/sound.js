// A ping on a new violation. Browsers allow sound only after the first click or key on a page; the
// state of the AudioContext says truly whether they do.

const APART_MS = 250; // a burst is one bell, not a siren
const KEY = 'rowcast.muted';

export class Sound {
  #button;
  #words;
  #context;
  #ping;
  #muted = remembered() === 'yes';
  #lastAt = -Infinity;
  #played = 0;

  constructor(button, words, url) {
    this.#button = button;
    this.#words = words;
    this.#start(url);
    button.addEventListener('click', () => this.#press());
    // Any first click will do. One on the button has a meaning of its own.
    for (const kind of ['pointerup', 'keydown']) {
      document.addEventListener(kind, (event) => button.contains(event.target) || this.#context?.resume());
    }
  }

  async #start(url) {
    try {
      this.#context = new AudioContext();
      this.#context.onstatechange = () => this.#show();
      this.#show();
      const answer = await fetch(url);
      if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
      this.#ping = await this.#context.decodeAudioData(await answer.arrayBuffer());
    } catch {
      this.#context = null;
    }
    this.#show();
  }

  /** Plays it, if that is allowed and wanted. */
  play() {
    const now = performance.now();
    if (this.#muted || !this.#ping || this.#context?.state !== 'running' || now - this.#lastAt < APART_MS) return;
    this.#lastAt = now;
    const source = this.#context.createBufferSource();
    source.buffer = this.#ping;
    source.connect(this.#context.destination);
    source.start();
    this.#played += 1;
    this.#button.dataset.played = this.#played;
  }

  async #press() {
    const blocked = this.#context && this.#context.state !== 'running';
    if (blocked) await this.#context.resume();
    if (!blocked || this.#muted) {
      this.#muted = !this.#muted;
      remember(this.#muted ? 'yes' : 'no');
    }
    this.#show();
    this.play(); // so that one hears what was switched on
  }

  #show() {
    let state = 'on';
    if (!this.#context) state = 'unavailable';
    else if (this.#muted) state = 'muted';
    else if (this.#context.state !== 'running') state = 'blocked';
    this.#words.textContent = { on: 'Sound on', muted: 'Sound off', blocked: 'Sound waits for a click', unavailable: 'No sound here' }[state];
    this.#button.dataset.state = state;
    this.#button.disabled = state === 'unavailable';
    this.#button.setAttribute('aria-pressed', String(state === 'on' || state === 'blocked'));
  }
}

function remembered() {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

function remember(value) {
  try { localStorage.setItem(KEY, value); } catch { /* private windows may forbid it: then it lasts as long as the page */ }
}
