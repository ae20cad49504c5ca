// A Chromium that does what it is told: a line of JSON in, {"id", "call", …}, and a line out, {"id", "result"} or
// {"id", "error"}. What happens on its pages is kept until it is asked for.

import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [executablePath, ...args] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args });
const pages = new Map();

// The recipes' `new Audio(…).play()` is never in the document: whoever plays is asked to tell when it has ended. So is a
// tone of the Web Audio API, which has no path.
function noteWhatWasPlayed() {
  window.played = [];
  const { play } = HTMLMediaElement.prototype;
  HTMLMediaElement.prototype.play = function () {
    this.addEventListener('ended', () => window.played.push(new URL(this.src).pathname), { once: true });
    return play.call(this);
  };
  const { start } = OscillatorNode.prototype;
  OscillatorNode.prototype.start = function (...when) {
    this.addEventListener('ended', () => window.played.push('tone'), { once: true });
    return start.apply(this, when);
  };
}

const calls = {
  /** A page in a profile of its own. */
  async open({ page: id, url }) {
    const context = await browser.newContext();
    const page = await context.newPage();
    const seen = { page, console: [], sockets: [] };
    pages.set(id, seen);
    await page.addInitScript(noteWhatWasPlayed);
    page.on('console', (message) => {
      const values = Promise.all(message.args().map((value) => value.jsonValue()));
      seen.console.push({ kind: message.type(), text: message.text(), at: message.location().url, values });
    });
    page.on('pageerror', (error) => seen.console.push({ kind: 'exception', text: String(error), at: '', values: [] }));
    page.on('websocket', (socket) => {
      const frames = [];
      seen.sockets.push({ url: socket.url(), frames });
      socket.on('framereceived', ({ payload }) => frames.push(String(payload)));
    });
    await page.goto(url);
  },
  console: ({ page }) => Promise.all(pages.get(page).console.map(async (line) => ({ ...line, values: await line.values }))),
  sockets: ({ page }) => pages.get(page).sockets,
  evaluate: ({ page, expression }) => pages.get(page).page.evaluate(expression),
  /** Until the expression is true. (Playwright's waitForFunction is stopped by the page's own security policy.) */
  async until({ page, expression, timeout }) {
    const deadline = Date.now() + timeout;
    while (!(await pages.get(page).page.evaluate(expression))) {
      if (Date.now() > deadline) throw new Error('not in time');
      await new Promise((done) => setTimeout(done, 20));
    }
  },
  click: ({ page, selector }) => pages.get(page).page.click(selector, { timeout: 10_000 }),
  async screenshot({ page, path, fullPage }) {
    await pages.get(page).page.screenshot({ path, fullPage });
  },
  /** Another tab comes in front of it, and the browser freezes it: no script runs. */
  async freeze({ page: id }) {
    const seen = pages.get(id);
    const { page } = seen;
    // Playwright keeps every page visible, and such a page does not freeze. It has no call that ends this.
    const session = page._connection.toImpl(page).delegate._mainFrameSession._client;
    await session.send('Emulation.setFocusEmulationEnabled', { enabled: false });
    seen.inFront = await page.context().newPage();
    await seen.inFront.bringToFront();
    seen.devtools ??= await page.context().newCDPSession(page);
    await seen.devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
  },
  async thaw({ page: id }) {
    const { page, inFront, devtools } = pages.get(id);
    await devtools.send('Page.setWebLifecycleState', { state: 'active' });
    await page.bringToFront();
    await inFront.close();
  },
  reload: ({ page }) => pages.get(page).page.reload().then(() => null),
  size: ({ page, width, height }) => pages.get(page).page.setViewportSize({ width, height }),
  scheme: ({ page, colorScheme }) => pages.get(page).page.emulateMedia({ colorScheme }),
};

console.log(JSON.stringify({ id: 0, result: browser.version() }));
for await (const line of createInterface({ input: process.stdin })) {
  const { id, call, ...rest } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ id, result: (await calls[call](rest)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ id, error: String(error) }));
  }
}
await browser.close();
