import { useState } from 'react';

/** A form whose button posts a row, and which says what came of it. It appears by itself: the form does not put it there. */
export function Send({ path, row, label, children }) {
  const [said, setSaid] = useState({});
  async function send(event) {
    event.preventDefault();
    setSaid({});
    try {
      const body = JSON.stringify(row(new FormData(event.currentTarget)));
      const answer = await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
      const { message } = await answer.json();
      setSaid(answer.ok ? { words: 'Stored.' } : { words: `Not stored: ${message}`, isWrong: true });
    } catch (error) {
      setSaid({ words: `No answer: ${error.message}`, isWrong: true });
    }
  }
  return (
    <form onSubmit={send}>
      {children}
      <button type="submit">{label}</button>
      <output className={said.isWrong ? 'wrong' : ''}>{said.words}</output>
    </form>
  );
}
