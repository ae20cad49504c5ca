// Elements, and figures as people say them.

/** An element. What is not an attribute is text, or another element; nothing is ever read as HTML. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === 'onclick') element.addEventListener('click', value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Takes the place of what is there, if that is something else: who is reading keeps his place. */
export function fill(element, ...children) {
  const next = document.createElement(element.tagName);
  next.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  if (next.innerHTML !== element.innerHTML) element.replaceChildren(...next.childNodes);
}

export function span(ms) {
  if (ms == null) return '–';
  const s = Math.round(Math.max(0, ms) / 1000);
  const two = (whole, of, rest, part) => `${Math.floor(whole)}\u00a0${of}${Math.floor(rest) ? ` ${Math.floor(rest)}\u00a0${part}` : ''}`;
  if (ms < 1000) return `${Math.max(0, Math.round(ms))}\u00a0ms`;
  if (s < 60) return `${s}\u00a0s`;
  if (s < 3600) return two(s / 60, 'min', s % 60, 's');
  if (s < 86400) return two(s / 3600, 'h', (s / 60) % 60, 'min');
  return two(s / 86400, 'd', (s / 3600) % 24, 'h');
}

export function bytes(count) {
  if (count == null) return 'not known';
  if (count < 1024) return `${count}\u00a0B`;
  if (count < 1048576) return `${Math.ceil(count / 1024)}\u00a0KiB`;
  return `${(count / 1048576).toFixed(1)}\u00a0MiB`;
}

/** Of a text of the gateway: figures stay with their units. */
export const together = (text) => text.replace(/(\d) (ms|s|min|h|d|KiB|MiB)\b/g, '$1\u00a0$2');

export const number = (count) => (count == null ? '–' : count.toLocaleString('en'));
export const many = (count, one, more) => `${number(count)} ${count === 1 ? one : more}`;

/** How long ago, by the gateway's clock: that of a phone may be wrong. */
let skew = 0;
export function setNow(now) {
  skew = Date.parse(now) - Date.now();
}
export const ago = (at) => (at == null ? '–' : `${span(Date.now() + skew - Date.parse(at))} ago`);

/** The time of day, and the day if that is another one; UTC, as in the logs. */
export function clock(at, to = 8) {
  if (at == null) return '–';
  const [day, time] = at.slice(0, -1).split('T');
  const today = new Date(Date.now() + skew).toISOString().slice(0, 10);
  return `${day === today ? '' : `${day} `}${time.slice(0, to)} UTC`;
}

export const facts = (pairs) =>
  h('dl', { class: 'facts' }, pairs.filter(Boolean).map(([name, value]) => [h('dt', null, name), h('dd', null, value)]));
