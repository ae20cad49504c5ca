// Changes received in each second of the last minute, stacked by system.

const SECONDS = 60;
const SVG = 'http://www.w3.org/2000/svg';

export class Chart {
  #ids;
  #seconds = [];
  #current = 0;
  #bars = [];
  #online = false;
  #view;

  constructor(ids, view) {
    this.#ids = ids;
    this.#view = view;
    this.#current = second();
    const grid = element('line', 'grid', { x1: 0, x2: 600, y1: 50, y2: 50 });
    view.svg.append(grid);
    for (let i = 0; i < SECONDS; i++) {
      this.#seconds.push(this.#empty());
      const x = i * 10 + 1.5;
      const bars = {
        offline: element('rect', 'offline', { x: i * 10, y: 0, width: 10, height: 100 }),
        parts: ids.map((id) => element('rect', id, { x, y: 100, width: 7, height: 0 })),
      };
      view.svg.append(bars.offline, ...bars.parts);
      this.#bars.push(bars);
    }
    this.#seconds.forEach((each) => { each.unknown = true; });
    setInterval(() => this.#draw(), 250);
    this.#draw();
  }

  count(id) {
    this.#move();
    this.#seconds[SECONDS - 1].counts[this.#ids.indexOf(id)] += 1;
  }

  set online(yes) {
    this.#move();
    this.#online = yes;
    if (!yes) this.#seconds[SECONDS - 1].offline = true;
  }

  #empty() {
    return { counts: this.#ids.map(() => 0), offline: !this.#online, unknown: false };
  }

  #move() {
    const now = second();
    const passed = Math.min(now - this.#current, SECONDS);
    for (let i = 0; i < passed; i++) {
      this.#seconds.shift();
      this.#seconds.push(this.#empty());
    }
    this.#current = now;
  }

  #draw() {
    this.#move();
    const totals = this.#seconds.map(({ counts }) => counts.reduce((sum, count) => sum + count, 0));
    const peak = Math.max(...totals);
    const top = roundUp(Math.max(peak, 4));
    this.#seconds.forEach(({ counts, offline, unknown }, i) => {
      const { offline: shade, parts } = this.#bars[i];
      shade.setAttribute('visibility', offline && !unknown ? 'visible' : 'hidden');
      let y = 100;
      counts.forEach((count, k) => {
        const height = (count / top) * 100;
        y -= height;
        parts[k].setAttribute('y', y);
        parts[k].setAttribute('height', height);
      });
    });
    const { now, peak: peakText, top: topText, offlineLegend } = this.#view;
    now.textContent = totals[SECONDS - 2].toLocaleString('en');
    peakText.textContent = peak.toLocaleString('en');
    topText.textContent = top.toLocaleString('en');
    offlineLegend.hidden = !this.#seconds.some(({ offline, unknown }) => offline && !unknown);
  }
}

function second() {
  return Math.floor(performance.now() / 1_000);
}

/** The next of 1, 2, 4, 6, 8 × 10ⁿ: the line at half height is a whole number too. */
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 4, 6, 8, 10].find((step) => step * power >= number) * power;
}

function element(name, className, attributes) {
  const it = document.createElementNS(SVG, name);
  it.setAttribute('class', className);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  return it;
}
