// A browser is slow with more; all rows are there all the same.
const SHOWN = 500;

/** The newest rows, and how many there are besides. That there are none is said only while it is known. */
export function List({ rows, Row, isLive, empty }) {
  const more = rows.length - SHOWN;
  return (
    <>
      {isLive && rows.length === 0 && <p className="empty">{empty}</p>}
      <ul data-count={rows.length}>
        {rows.slice(0, SHOWN).map((row) => (
          <Row key={`${row.table ?? ''}${row.id}`} row={row} />
        ))}
      </ul>
      {more > 0 && <p className="empty">and {more} earlier</p>}
    </>
  );
}
