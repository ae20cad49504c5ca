/** What a gateway refused, with the code of its `error` message or of its close; or what cannot go on here. */
export class RowcastError extends Error {
  /** @param {string} code @param {string} message @param {boolean} temporary whether it is tried again */
  constructor(code, message, temporary = false) {
    super(`${code}: ${message}`);
    this.name = 'RowcastError';
    this.code = code;
    this.temporary = temporary;
  }
}
