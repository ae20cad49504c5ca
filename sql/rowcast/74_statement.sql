-- Capture by the statement: for tables that are written many rows at a time.
--
-- The rows that a statement has changed are logged 128 at a time, which costs half of logging each. The price: it
-- runs after the ROW triggers of the table, so what these change comes out first. Tables that have such triggers
-- are refused, as are partitioned ones, whose partitions can be written to by name.

create or replace function rowcast.refuse_statements(relation regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  other text;
begin
  if exists (select from pg_class c where c.oid = relation and c.relkind = 'p') then
    raise exception 'each: % is partitioned, and statements may name a partition', relation
      using errcode = 'feature_not_supported', hint = 'Take each => ''row''.';
  elsif exists (select from pg_inherits i where relation in (i.inhrelid, i.inhparent)) then
    raise exception 'each: % inherits, or is inherited from: a statement may change rows of several tables', relation
      using errcode = 'feature_not_supported', hint = 'Take each => ''row''.';
  end if;
  -- Bits of pg_trigger.tgtype: ROW 1. BEFORE too: it may change rows that the statement has written already.
  select t.tgname into other from pg_trigger t join pg_proc p on p.oid = t.tgfoid
   where t.tgrelid = relation and not t.tgisinternal and p.pronamespace <> 'rowcast'::regnamespace and t.tgtype & 1 = 1 order by t.tgname limit 1;
  if found then
    raise exception 'each: % has the trigger %, which fires for each row before a statement is captured', relation, quote_ident(other)
      using errcode = 'feature_not_supported', hint = 'Take each => ''row'': what the trigger changes then comes out in order.';
  end if;
  select k.conname into other from pg_constraint k
   where k.contype = 'f' and k.conrelid = relation and k.confrelid = relation and (k.confupdtype <> 'a' or k.confdeltype not in ('a', 'r')) limit 1;
  if found then
    raise exception 'each: the foreign key % changes other rows of % in the middle of a statement', quote_ident(other), relation
      using errcode = 'feature_not_supported', hint = 'Take each => ''row''.';
  end if;
end
$$;
revoke all on function rowcast.refuse_statements(regclass) from public;
comment on function rowcast.refuse_statements(regclass) is 'Fails, with the way out, if a table cannot be captured by the statement.';

-- The two transition tables of an UPDATE have their rows in the same order. They are joined in full because that is
-- never done by nested loops: the plan is kept by the session, and the first statement may have changed one row.
-- "offset 0" keeps a query as it is: pulled up, its JSON would be made for each use of it.
create or replace function rowcast.changed_rows(op text, w rowcast.watched, new_rows text, old_rows text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  delivered text[] := rowcast.delivered(w);
  fresh     text := rowcast.row_expression('n.*', delivered); -- n alone would be a column of that name
  gone      text := case w.old
    when 'full' then rowcast.row_expression('o.*', delivered)
    when 'key' then format('coalesce(%s, %s)', rowcast.key_expression('o.*', w.key), rowcast.row_expression('o.*', delivered))
    else 'null::pg_catalog.text'
  end;
  numbered  text := '(select pg_catalog.row_number() over () as place, %s from %s) %s';
begin
  if op = 'DELETE' then
    return format('select pg_catalog.row_number() over () as place, null::pg_catalog.text as data, %s as old from %s o offset 0', gone, old_rows);
  elsif op = 'INSERT' or w.old = 'none' then
    return format('select pg_catalog.row_number() over () as place, %s as data, null::pg_catalog.text as old from %s n offset 0', fresh, new_rows);
  elsif w.old = 'full' then
    return format('select a.place, a.data, b.old from %s full join %s on a.place operator(pg_catalog.=) b.place offset 0',
      format(numbered, fresh || ' as data', new_rows || ' n', 'a'), format(numbered, gone || ' as old', old_rows || ' o', 'b'));
  end if;
  return format('select a.place, a.data, case when b.old operator(pg_catalog.=) a.key then '''' else b.old end as old from %s full join %s on a.place operator(pg_catalog.=) b.place offset 0',
    format(numbered, fresh || ' as data, ' || rowcast.key_expression('n.*', w.key) || ' as key', new_rows || ' n', 'a'),
    format(numbered, gone || ' as old', old_rows || ' o', 'b'));
end
$$;
revoke all on function rowcast.changed_rows(text, rowcast.watched, text, text) from public;
comment on function rowcast.changed_rows(text, rowcast.watched, text, text) is 'A query of what a statement has changed: place, new row and old row as JSON; an old key that is as before is empty. For rowcast.statement_source.';

drop function if exists rowcast.changed_rows(text, rowcast.watched); -- Of version 1.

-- A row may be among the changed ones twice: two foreign keys that cascade change it in one statement. So the order
-- is kept, which a hash join on disk and a sort do not do by themselves.
--
-- U+001E cannot be in JSON; RFC 7464 has it between JSON texts, too. Up to 128 rows are packed at once. Where there are
-- more, or one that is large or has to be cut, all are packed in parts, and such rows are parts by themselves.
create or replace function rowcast.statement_source(w rowcast.watched) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  largest int := least(8192, w.max_change_bytes);
  size    text := 'coalesce(pg_catalog.octet_length(%s), 0) operator(pg_catalog.+) coalesce(pg_catalog.octet_length(%s), 0)';
  packed  text := 'pg_catalog.string_agg(r.data, pg_catalog.chr(30) %1$s) %2$s, pg_catalog.string_agg(r.old, pg_catalog.chr(30) %1$s) %2$s';
  op      text;
  joined  bool;
  few     text[];
  many    text[];
begin
  foreach op in array '{INSERT,UPDATE,DELETE}'::text[] loop
    joined := op = 'UPDATE' and w.old <> 'none';
    few := few || format($query$select pg_catalog.count(*), pg_catalog.max(r.size), %1$s
      into changes, largest, data, old_row
      from (select c.data, c.old, %2$s as size from (%3$s) c %4$s offset 0) r;$query$,
      format(packed, '', format('filter (where r.size operator(pg_catalog.<=) %s)', largest)), format(size, 'c.data', 'c.old'),
      rowcast.changed_rows(op, w, '(select * from new_rows limit 129)', '(select * from old_rows limit 129)'),
      case when joined then 'order by c.place' else '' end);
    many := many || format($query$open parts no scroll for
        select pg_catalog.count(*), %1$s
          from (select s.*, -- Two more at each large row and after it: a part of its own.
              pg_catalog.sum(s.large) over (order by s.place) operator(pg_catalog.+)
              coalesce(pg_catalog.sum(s.large) over (order by s.place rows between unbounded preceding and 1 preceding), 0) as part
            from (select c.place, c.data, c.old, case when %2$s operator(pg_catalog.>) %4$s then 1 else 0 end as large from (%3$s) c offset 0) s offset 0) r
         group by r.part, (r.place operator(pg_catalog.-) 1) operator(pg_catalog./) 128 order by pg_catalog.min(r.place);$query$,
      format(packed, 'order by r.place', ''), format(size, 'c.data', 'c.old'), rowcast.changed_rows(op, w, 'new_rows', 'old_rows'), largest);
  end loop;
  return format($body$
declare
  parts pg_catalog.refcursor;
  changes pg_catalog.int8;
  largest pg_catalog.int4;
  data pg_catalog.text;
  old_row pg_catalog.text;
  cut pg_catalog.text;
  new_id pg_catalog.int8;
  whole pg_catalog.oid;
begin
  if tg_op operator(pg_catalog.=) 'INSERT' then
    %1$s
  elsif tg_op operator(pg_catalog.=) 'UPDATE' then
    %2$s
  elsif tg_op operator(pg_catalog.=) 'DELETE' then
    %3$s
  else
    %12$s
    changes := 1;
  end if;
  if changes operator(pg_catalog.>) 128 or largest operator(pg_catalog.>) %7$s then
    if tg_op operator(pg_catalog.=) 'INSERT' then
      %4$s
    elsif tg_op operator(pg_catalog.=) 'UPDATE' then
      %5$s
    else
      %6$s
    end if;
    fetch parts into changes, data, old_row;
  end if;
  while changes operator(pg_catalog.>) 0 loop
    if not pg_catalog.pg_try_advisory_xact_lock_shared(32210705904137076) then
      perform pg_catalog.pg_notify('rowcast_log', '');
    end if;
    cut := null;
    if changes operator(pg_catalog.=) 1 then
      if old_row operator(pg_catalog.=) '' then
        old_row := null;
      end if;
      if %8$s operator(pg_catalog.>) %9$s then
        select c.data, c.old, c.cut into data, old_row, cut from rowcast.cut_change(data, old_row, %10$L, %9$s) c;
      end if;
    end if;
    %11$s
    exit when parts is null;
    fetch parts into changes, data, old_row;
  end loop;
  -- Else it would be open until the transaction ends.
  if parts is not null then
    close parts;
  end if;
  return null;
end
$body$, few[1], few[2], few[3], many[1], many[2], many[3], largest, format(size, 'data', 'old_row'), w.max_change_bytes, to_json(w.key),
    rowcast.append_source(w, 'changes'), rowcast.truncate_source(w));
end
$$;
revoke all on function rowcast.statement_source(rowcast.watched) from public;
comment on function rowcast.statement_source(rowcast.watched) is 'Body of the capture function of a table that is captured by the statement.';
