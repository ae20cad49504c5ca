-- Capture by the statement: for tables that are written many rows at a time.
--
-- One INSERT … SELECT of all that a statement has changed costs less than half of a call for each row. The price:
-- it runs after the ROW triggers of the table, so what these change comes out first. Tables that have such triggers
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
create or replace function rowcast.changed_rows(op text, w rowcast.watched) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  delivered text[] := rowcast.delivered(w);
  fresh     text := rowcast.row_expression('n.*', delivered); -- n alone would be a column of that name
  gone      text := case w.old
    when 'full' then rowcast.row_expression('o.*', delivered)
    when 'key' then rowcast.row_expression('o.*', w.key)
    else 'null::pg_catalog.text'
  end;
  numbered  text := '(select pg_catalog.row_number() over () as place, %s from %s) %s';
begin
  if op = 'T' then
    return 'select null::pg_catalog.text as data, null::pg_catalog.text as old';
  elsif op = 'D' then
    return format('select null::pg_catalog.text as data, %s as old from old_rows o offset 0', gone);
  elsif op = 'I' or w.old = 'none' then
    return format('select %s as data, null::pg_catalog.text as old from new_rows n offset 0', fresh);
  elsif w.old = 'full' then
    return format('select a.data, b.old from %s full join %s on a.place operator(pg_catalog.=) b.place offset 0',
      format(numbered, fresh || ' as data', 'new_rows n', 'a'), format(numbered, gone || ' as old', 'old_rows o', 'b'));
  end if;
  return format('select a.data, case when b.old operator(pg_catalog.<>) a.key then b.old end as old from %s full join %s on a.place operator(pg_catalog.=) b.place offset 0',
    format(numbered, fresh || ' as data, ' || rowcast.row_expression('n.*', w.key) || ' as key', 'new_rows n', 'a'),
    format(numbered, gone || ' as old', 'old_rows o', 'b'));
end
$$;
revoke all on function rowcast.changed_rows(text, rowcast.watched) from public;
comment on function rowcast.changed_rows(text, rowcast.watched) is 'A query of what a statement has changed, new row and old row as JSON. For rowcast.statement_source.';

create or replace function rowcast.statement_source(w rowcast.watched) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  key  text := case when w.key <> '{}' then to_json(w.key) end;
  body text := '';
  op   record;
begin
  for op in select * from (values ('I', 'INSERT', 'if'), ('U', 'UPDATE', 'elsif'), ('D', 'DELETE', 'elsif'), ('T', 'TRUNCATE', 'elsif')) o(letter, name, branch) loop
    body := body || format(E'  %s tg_op operator(pg_catalog.=) %L then\n', op.branch, op.name);
    for leaf in 0..3 loop
      body := body || format($branch$    %1$s
      insert into rowcast.event_%2$s (id, topic, op, key, data, old, cut)
      select pg_catalog.nextval('rowcast.event_id'), %3$L, %4$L, %5$L,
          case when c.cut is null then r.data else c.data end, case when c.cut is null then r.old else c.old end, c.cut
        from (%6$s) r left join lateral
          (select k.data, k.old, k.cut from rowcast.cut_change(r.data, r.old, %7$L, %8$s) k
            where coalesce(pg_catalog.octet_length(r.data), 0) operator(pg_catalog.+) coalesce(pg_catalog.octet_length(r.old), 0) operator(pg_catalog.>) %8$s
            offset 0) c -- else cut_change is called for every row
          on true;
$branch$,
        case leaf when 0 then 'if leaf operator(pg_catalog.=) 0 then' when 3 then 'else' else format('elsif leaf operator(pg_catalog.=) %s then', leaf) end,
        leaf, w.topic, op.letter, key, rowcast.changed_rows(op.letter, w), to_json(w.key), w.max_change_bytes);
    end loop;
    body := body || E'    end if;\n';
  end loop;
  return format($body$
declare
  leaf pg_catalog.int8;
begin
  if not pg_catalog.pg_try_advisory_xact_lock_shared(32210705904137076) then
    perform pg_catalog.pg_notify('rowcast_log', '');
  end if;
  -- A number that is left out: it says which leaf is written.
  leaf := (pg_catalog.nextval('rowcast.event_id') operator(pg_catalog.>>) 36) operator(pg_catalog.&) 3;
%s  end if;
  return null;
end
$body$, body);
end
$$;
revoke all on function rowcast.statement_source(rowcast.watched) from public;
comment on function rowcast.statement_source(rowcast.watched) is 'Body of the capture function of a table that is captured by the statement.';
