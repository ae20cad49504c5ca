-- Changes that come too late.
--
-- PostgreSQL fires AFTER ROW triggers row by row: of an INSERT of two rows, first all triggers of the
-- first row, then all of the second. Where a trigger of the user's on the first row updates the
-- second, that UPDATE is logged before the INSERT of the row. (So does a BEFORE trigger or a function
-- that changes rows which the statement around it has already written.)
--
-- The late change can be told: its row version has been replaced (xmax is set). The early one can be
-- found: it notes which version it replaced. The two become one change, at the place of the early one:
-- an INSERT of the row as the UPDATE left it. Per row the log is in order, and ends in what the table has.
--
-- A version is <table>/<file>/<command>(<block>,<line>). Its place is not enough: TRUNCATE, and an ALTER TABLE that
-- writes the table anew, let rows of the same transaction come where others were. They do so in a new file, except a
-- TRUNCATE of a file that is of this transaction itself. There the command (cmin) differs, but once it has two
-- numbers, its own and a joint one with xmax, these may meet by chance: so a TRUNCATE that is captured has all
-- versions of its table forgotten. None of these statements is allowed while a change of the table has still to be logged.

create or replace function rowcast.fold(op "char", version text, replaced text, old text, cut text) returns bool
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  early record;
begin
  select e.tableoid::regclass as leaf, e.ctid as place, e.op, e.old, e.cut into early
    from rowcast.event e
   where e.xid = pg_current_xact_id() and e.replaced = version
   order by e.id limit 1;
  if not found then
    return false; -- Only locked, by a foreign key for one.
  end if;
  if op = 'I' and early.op = 'D' then
    -- Came and went.
    execute format('delete from %s where ctid = $1', early.leaf) using early.place;
    return true;
  end if;
  execute format('update %s set op = $2, old = $3, cut = $4, replaced = $5 where ctid = $1', early.leaf)
    using early.place,
      case when op = 'I' then op else early.op end,
      case when op = 'U' then coalesce(old, early.old) end,
      (select json_agg(distinct c.name)::text
         from (select json_array_elements_text(cut::json) where op = 'U' union all select json_array_elements_text(early.cut::json)) c(name)),
      replaced;
  return true;
end
$$;
revoke all on function rowcast.fold("char", text, text, text, text) from public;
comment on function rowcast.fold("char", text, text, text, text) is 'Joins a late INSERT or UPDATE of this transaction with the change, logged before, that replaced its row version. False if there is none: then it is to be logged. For capture functions.';

create or replace function rowcast.forget_versions(relation oid) returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
begin
  update rowcast.event e set replaced = null where e.xid = pg_current_xact_id() and e.replaced like relation || '/%';
end
$$;
revoke all on function rowcast.forget_versions(oid) from public;
comment on function rowcast.forget_versions(oid) is 'After a TRUNCATE: no change of this transaction has replaced a version of the table that can still come. For capture functions.';
