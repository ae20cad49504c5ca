// Questions to the gateway. The token is in the tab's own storage at most, and goes out in a header.

/** A number of a row that JavaScript would write otherwise, as 1.50 or a bigint, stays what it says, where the browser can. */
const exact = (_, value, context) =>
  typeof value === 'number' && context && String(value) !== context.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value;

/** Answers that have rows in them. */
const WITH_ROWS = ['changes', 'why'];

const KEPT = 'rowcast-inspect-token';
let token = sessionStorage.getItem(KEPT);

/** The gateway did not answer, or not with 200. */
export class Unanswered extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setToken(text) {
  token = text;
  if (text) sessionStorage.setItem(KEPT, text);
  else sessionStorage.removeItem(KEPT);
}

export const hasToken = () => Boolean(token);

export async function ask(what, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== '' && value != null);
  const query = new URLSearchParams(given).toString();
  let response;
  try {
    response = await fetch(`/inspect/api/${what}${query ? `?${query}` : ''}`, {
      headers: token ? { authorization: `Bearer ${token}` } : {},
      cache: 'no-store',
      signal: AbortSignal.timeout(8000),
    });
  } catch {
    throw new Unanswered(0, 'This gateway does not answer.');
  }
  const body = await response.text().then((text) => JSON.parse(text, WITH_ROWS.includes(what) ? exact : undefined)).catch(() => ({}));
  if (!response.ok) throw new Unanswered(response.status, body.message ?? `The answer was ${response.status}.`);
  return body;
}
