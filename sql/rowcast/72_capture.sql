-- Capture functions: one for each watched table, written out for it, called by its triggers.
--
-- They run in the user's statements, so: every name, type and operator has its schema, because whoever writes
-- decides about the search_path (and pg_temp is looked in first, for types), and a SET clause costs 1.1 us a row;
-- so no between, in, nullif, distinct, using or case x when, whose operators are looked up; no exception block, because a change
-- that cannot be stored must fail the write, and a subtransaction costs every statement; static SQL.
-- They are SECURITY DEFINER: who writes to a table needs no right to the log.
-- They name no column, so that columns can be added, renamed and dropped.

create or replace function rowcast.capture_name(topic text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when octet_length('capture ' || topic) <= 63 then 'capture ' || topic else 'capture ' || md5(topic) end
$$;
revoke all on function rowcast.capture_name(text) from public;
comment on function rowcast.capture_name(text) is 'Name of the capture function of a topic.';

create or replace function rowcast.columns_of(relation regclass) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- A virtual generated column is null in a trigger, whatever it reads as in the table.
  return array(select a.attname::text from pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v' order by a.attnum);
end
$$;
revoke all on function rowcast.columns_of(regclass) from public;
comment on function rowcast.columns_of(regclass) is 'The columns of a table that a trigger can see, in order.';

create or replace function rowcast.key_of(relation regclass) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select a.attname::text
    from pg_index i, unnest(i.indkey::int2[]) with ordinality k(attnum, place), pg_attribute a
   where i.indrelid = relation and i.indisprimary and k.place <= i.indnkeyatts
     and a.attrelid = i.indrelid and a.attnum = k.attnum
   order by k.place)
$$;
revoke all on function rowcast.key_of(regclass) from public;
comment on function rowcast.key_of(regclass) is 'The columns of the primary key of a table, in its order.';

-- No column is named but in strings: one that is renamed or dropped must not make its table's writes fail,
-- and one that is left out stays out under its new name. (Naming them would save 2 to 3 us a row.)
create or replace function rowcast.row_expression(variable text, columns text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    when columns is null then format('pg_catalog.row_to_json(%s)::pg_catalog.text', variable)
    else format('(select ''{'' operator(pg_catalog.||) coalesce(pg_catalog.string_agg(pg_catalog.to_json(v.key)::pg_catalog.text'
      ' operator(pg_catalog.||) '':'' operator(pg_catalog.||) v.value::pg_catalog.text, '',''), '''') operator(pg_catalog.||) ''}'''
      ' from pg_catalog.json_each(pg_catalog.row_to_json(%s)) v where v.key operator(pg_catalog.=) any (%L::pg_catalog.text[]))', variable, columns)
  end
$$;
revoke all on function rowcast.row_expression(text, text[]) from public;
comment on function rowcast.row_expression(text, text[]) is 'SQL that makes JSON of NEW or OLD: of the columns named, or of all for null. For rowcast.capture_source.';

-- Where a column of the key has been renamed since, nothing would tell the row: then the whole row does.
create or replace function rowcast.key_expression(variable text, key text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('(select case when pg_catalog.count(*) operator(pg_catalog.=) %s then ''{'' operator(pg_catalog.||) pg_catalog.string_agg(pg_catalog.to_json(v.key)::pg_catalog.text'
    ' operator(pg_catalog.||) '':'' operator(pg_catalog.||) v.value::pg_catalog.text, '','') operator(pg_catalog.||) ''}'' end'
    ' from pg_catalog.json_each(pg_catalog.row_to_json(%s)) v where v.key operator(pg_catalog.=) any (%L::pg_catalog.text[]))', cardinality(key), variable, key)
$$;
revoke all on function rowcast.key_expression(text, text[]) from public;
comment on function rowcast.key_expression(text, text[]) is 'SQL that makes JSON of the key columns of NEW or OLD; null if one of them is not there. For rowcast.capture_source.';

create or replace function rowcast.delivered(w rowcast.watched) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  -- Where columns are left out, always: after one of them is dropped it may be added again.
  select case when w.leave_out <> '{}' or w.columns <> array(select a.attname::text from pg_attribute a
    where a.attrelid = w.relation and a.attnum > 0 and not a.attisdropped order by a.attnum) then w.columns end
$$;
revoke all on function rowcast.delivered(rowcast.watched) from public;
comment on function rowcast.delivered(rowcast.watched) is 'The columns that a capture function has to name; null where it takes the row as it is.';

create or replace function rowcast.append_source(w rowcast.watched, how text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($body$new_id := pg_catalog.nextval('rowcast.event_id');
  if (new_id operator(pg_catalog.>>) 36) operator(pg_catalog.&) 3 operator(pg_catalog.=) 0 then
    insert into rowcast.event_0 %1$s;
  elsif (new_id operator(pg_catalog.>>) 36) operator(pg_catalog.&) 3 operator(pg_catalog.=) 1 then
    insert into rowcast.event_1 %1$s;
  elsif (new_id operator(pg_catalog.>>) 36) operator(pg_catalog.&) 3 operator(pg_catalog.=) 2 then
    insert into rowcast.event_2 %1$s;
  else
    insert into rowcast.event_3 %1$s;
  end if;$body$,
    -- The letter of an op is the first of its name.
    format('(id, topic, op, key, data, old, cut, %1$s) values (new_id, %2$L, tg_op::pg_catalog."char", %3$L, data, old_row, cut, %1$s)',
      how, w.topic, case when w.key <> '{}' then to_json(w.key) end))
$$;
revoke all on function rowcast.append_source(rowcast.watched, text) from public;
comment on function rowcast.append_source(rowcast.watched, text) is 'Statements of a capture function that log data, old_row, cut, and the column named, from variables of these names.';

-- A partition that is detached keeps its trigger for TRUNCATE, and may be part of another table by now: what it is to
-- the table that is watched is looked up then. By the topic, because a restored table has another OID. Where the row
-- is not seen, the writer's snapshot is older than the watch.
create or replace function rowcast.truncate_source(w rowcast.watched) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($body$select coalesce((select o.relation::pg_catalog.oid from rowcast.watched o where o.topic operator(pg_catalog.=) %L::pg_catalog.text),
      pg_catalog.pg_partition_root(tg_relid)::pg_catalog.oid, tg_relid) into whole;
    if whole operator(pg_catalog.<>) tg_relid then
      if not exists (select from pg_catalog.pg_partition_ancestors(tg_relid) a where a.relid::pg_catalog.oid operator(pg_catalog.=) whole) then
        return null;
      end if;
      data := pg_catalog.json_build_object('partition', tg_table_schema operator(pg_catalog.||) '.' operator(pg_catalog.||) tg_table_name)::pg_catalog.text;
    end if;$body$, w.topic)
$$;
revoke all on function rowcast.truncate_source(rowcast.watched) from public;
comment on function rowcast.truncate_source(rowcast.watched) is 'Statements of a capture function that tell a TRUNCATE of the whole from one of a partition, and end it for one of neither.';

create or replace function rowcast.capture_source(w rowcast.watched) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  delivered text[] := rowcast.delivered(w);
  -- The rare cases. A change that is too large: bytes of an INSERT, an UPDATE, a DELETE.
  inserted  text := format('pg_catalog.octet_length(data) operator(pg_catalog.>) %s', w.max_change_bytes);
  updated   text := format('pg_catalog.octet_length(data) operator(pg_catalog.+) coalesce(pg_catalog.octet_length(old_row), 0) operator(pg_catalog.>) %s', w.max_change_bytes);
  deleted   text := format('pg_catalog.octet_length(old_row) operator(pg_catalog.>) %s', w.max_change_bytes);
  -- A row version of this very transaction is replaced: the change that made it may still have to be logged.
  replaces  text := 'pg_catalog.age(old.xmin) operator(pg_catalog.<=) 0';
  -- Replaced already, or only locked: this change may come after the one that replaced it.
  late      text := 'new.xmax operator(pg_catalog.<>) ''0''::pg_catalog.xid';
  cut       text := format('select c.data, c.old, c.cut into data, old_row, cut from rowcast.cut_change(data, old_row, %L, %s) c;',
    to_json(w.key), w.max_change_bytes);
  version   text := 'pg_catalog.concat(tg_relid, ''/'', pg_catalog.pg_relation_filenode(tg_relid), ''/'', %1$s.cmin, %1$s.ctid)';
  replaced  text := format(E'if %s then\n        replaced := %s;\n      end if;', replaces, format(version, 'old'));
  fold      text := format(E'if %s then\n        if rowcast.fold(tg_op::pg_catalog."char", %s, replaced, old_row, cut) then\n'
    '          return null;\n        end if;\n      end if;', late, format(version, 'new'));
  new_row   text := rowcast.row_expression('new', delivered);
  old_row   text := 'old_row := ' || rowcast.row_expression('old', delivered) || ';';
  old_key   text := format('old_row := coalesce(%s, %s);', rowcast.key_expression('old', w.key), rowcast.row_expression('old', delivered));
begin
  -- As few expressions as can be on the way of an ordinary change: PL/pgSQL makes each of them ready anew in every
  -- transaction, which costs more than to evaluate it.
  return format($body$
declare
  new_id pg_catalog.int8;
  data pg_catalog.text;
  old_row pg_catalog.text;
  cut pg_catalog.text;
  replaced pg_catalog.text;
  whole pg_catalog.oid;
begin
  -- The doorbell: only a listener that sleeps holds this lock.
  if not pg_catalog.pg_try_advisory_xact_lock_shared(32210705904137076) then
    perform pg_catalog.pg_notify('rowcast_log', '');
  end if;
  if tg_op operator(pg_catalog.=) 'INSERT' then
    data := %1$s;
    if %4$s or %8$s then
      if %4$s then
        %7$s
      end if;
      %10$s
    end if;
  elsif tg_op operator(pg_catalog.=) 'UPDATE' then
    data := %1$s;
    %2$s
    if %5$s or %9$s or %8$s then
      if %5$s then
        %7$s
      end if;
      %11$s
      %10$s
    end if;
  elsif tg_op operator(pg_catalog.=) 'DELETE' then
    %3$s
    if %6$s or %9$s then
      if %6$s then
        %7$s
      end if;
      %11$s
    end if;
  else
    perform rowcast.forget_versions(tg_relid);
    %13$s
  end if;
  %12$s
  return null;
end
$body$,
    new_row,
    case w.old
      when 'full' then old_row
      when 'key' then format(E'%s\n    if old_row operator(pg_catalog.=) %s then\n      old_row := null;\n    end if;', old_key, rowcast.key_expression('new', w.key))
      else ''
    end,
    case w.old
      when 'full' then old_row
      when 'key' then old_key
      else ''
    end,
    inserted, updated, deleted, cut, late, replaces, fold, replaced,
    rowcast.append_source(w, 'replaced'), rowcast.truncate_source(w));
end
$$;
revoke all on function rowcast.capture_source(rowcast.watched) from public;
comment on function rowcast.capture_source(rowcast.watched) is 'Body of the capture function of a watched table.';

-- Default privileges of who makes an object may open it to others.
create or replace function rowcast.close_to_others(catalogue regclass, object oid, owner oid, acl aclitem[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  it    record := pg_identify_object(catalogue, object, 0);
  other oid;
begin
  for other in select distinct a.grantee from aclexplode(acl) a where a.grantee not in (0, owner) loop
    execute format('revoke all on %s %s from %I cascade', it.type, it.identity, pg_get_userbyid(other));
  end loop;
end
$$;
revoke all on function rowcast.close_to_others(regclass, oid, oid, aclitem[]) from public;
comment on function rowcast.close_to_others(regclass, oid, oid, aclitem[]) is 'Takes an object, named as in pg_depend, away from all roles but its owner. What PUBLIC may is not its business.';

create or replace function rowcast.write_capture(topic text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  w     rowcast.watched;
  name  text := format('rowcast.%I()', rowcast.capture_name(topic));
  owner text := (select pg_get_userbyid(n.nspowner) from pg_namespace n where n.nspname = 'rowcast');
begin
  select * into strict w from rowcast.watched o where o.topic = write_capture.topic;
  execute format('create or replace function %s returns trigger language plpgsql security definer as %L', name,
    -- Replaced, not dropped: that takes no lock on the table.
    case when exists (select from rowcast.state s where s.paused_at is not null) then 'begin return null; end'
         when w.each = 'statement' then rowcast.statement_source(w)
         else rowcast.capture_source(w) end);
  execute format('revoke all on function %s from public', name);
  execute format('alter function %s owner to %I', name, owner);
  perform rowcast.close_to_others(p.tableoid, p.oid, p.proowner, p.proacl) from pg_proc p where p.oid = name::regprocedure;
  execute format('comment on function %s is %L', name, format('Logs the changes of %s. Written by rowcast.watch.', topic));
end
$$;
revoke all on function rowcast.write_capture(text) from public;
comment on function rowcast.write_capture(text) is 'Writes the capture function of a watched table anew; while paused, one that does nothing.';
