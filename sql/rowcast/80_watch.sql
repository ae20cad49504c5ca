-- watch and unwatch: what people call.

create or replace function rowcast.refuse_unwatchable(relation regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c record;
begin
  select r.relkind, r.relpersistence, r.relispartition, r.relowner, n.nspname, n.nspowner into c
    from pg_class r join pg_namespace n on n.oid = r.relnamespace where r.oid = relation;
  if not found then
    raise exception 'there is no table to watch' using errcode = 'undefined_table', hint = 'Name it as in select rowcast.watch(''public.orders'').';
  elsif c.nspname = 'rowcast' then
    raise exception '% belongs to rowcast itself', relation using errcode = 'wrong_object_type', hint = 'Watch your own tables.';
  elsif c.nspname in ('pg_catalog', 'information_schema', 'pg_toast') then
    raise exception '% is a system table, and these have no triggers', relation using errcode = 'wrong_object_type', hint = 'Watch your own tables.';
  elsif c.relkind in ('v', 'm') then
    raise exception '% is a view: nothing is ever written to it', relation
      using errcode = 'wrong_object_type', hint = 'Watch the tables that it reads.';
  elsif c.relkind = 'f' then
    raise exception '% is a foreign table: what others write to it fires no trigger here', relation
      using errcode = 'wrong_object_type', hint = 'Watch the table in the database where it is.';
  elsif c.relkind not in ('r', 'p') then
    raise exception '% is not a table', relation using errcode = 'wrong_object_type', hint = 'Watch a table.';
  elsif c.relpersistence = 't' then
    raise exception '% is a temporary table, and nobody else sees its rows', relation
      using errcode = 'wrong_object_type', hint = 'Watch a permanent table.';
  elsif c.relpersistence = 'u' then
    raise exception '% is unlogged: a crash empties it, and no trigger tells', relation
      using errcode = 'wrong_object_type', hint = format('alter table %s set logged;', relation);
  elsif c.relispartition then
    raise exception '% is a partition of %', relation, pg_partition_root(relation)
      using errcode = 'wrong_object_type', hint = format('Watch the whole table: select rowcast.watch(%L).', pg_partition_root(relation)::text);
  elsif not pg_has_role(c.relowner, 'usage') then
    raise exception 'only the owner of a table can watch it, and % belongs to %', relation, pg_get_userbyid(c.relowner)
      using errcode = 'insufficient_privilege', hint = format('As a role that may use both: grant %I to %I.', pg_get_userbyid(c.relowner), current_user);
  end if;
end
$$;
revoke all on function rowcast.refuse_unwatchable(regclass) from public;
comment on function rowcast.refuse_unwatchable(regclass) is 'Fails, with the reason and the way out, if a relation cannot be watched.';

create or replace function rowcast.topic_of(relation regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  topic text := (select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
  bytes int := octet_length(convert_to(topic, 'UTF8'));
begin
  if bytes > 127 then
    raise exception 'the topic would be %, which has % bytes; 127 are allowed', topic, bytes
      using errcode = 'name_too_long', hint = 'Rename the table or its schema.';
  elsif topic ~ '[\u0001-\u001f\u007f-\u009f]' then
    raise exception 'the name of % holds a control character', relation
      using errcode = 'invalid_name', hint = 'Rename the table or its schema.';
  end if;
  return topic;
end
$$;
revoke all on function rowcast.topic_of(regclass) from public;
comment on function rowcast.topic_of(regclass) is 'The topic that a table would have: schema.table. Fails if that cannot be a topic.';

create or replace function rowcast.refuse_options(relation regclass, ops text[], leave_out text[], old text, max_change_bytes int, each text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  columns text[] := array(select a.attname::text from pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped order by a.attnum);
  key     text[] := rowcast.key_of(relation);
  wrong   text;
begin
  select o into wrong from unnest(ops) o where o is null or o <> all ('{INSERT,UPDATE,DELETE,TRUNCATE}') limit 1;
  if found or coalesce(cardinality(ops), 0) = 0 then
    raise exception 'ops: % is not an operation', coalesce(quote_literal(wrong), 'nothing')
      using errcode = 'invalid_parameter_value', hint = 'There are INSERT, UPDATE, DELETE and TRUNCATE; name at least one.';
  end if;
  select c into wrong from unnest(leave_out) c where c is null or c <> all (columns) limit 1;
  if found or leave_out is null then
    raise exception 'leave_out: % has no column %', relation, coalesce(quote_literal(wrong), 'null')
      using errcode = 'undefined_column', hint = 'It has: ' || array_to_string(columns, ', ') || '.';
  end if;
  select c into wrong from unnest(leave_out) c where c = any (key) limit 1;
  if found then
    raise exception 'leave_out: % is a column of the primary key, by which clients tell rows apart', quote_literal(wrong)
      using errcode = 'invalid_parameter_value', hint = 'Leave out other columns alone.';
  end if;
  if old is null or old not in ('full', 'key', 'none') then
    raise exception 'old: % is not known', coalesce(quote_literal(old), 'null')
      using errcode = 'invalid_parameter_value', hint = 'There are full (the old row), key (the old key) and none.';
  elsif old = 'key' and key = '{}' then
    raise exception 'old: % has no primary key, so there is no old key to keep', relation
      using errcode = 'invalid_parameter_value', hint = 'Add a primary key, or take full or none.';
  elsif each is null or each not in ('row', 'statement') then
    raise exception 'each: % is not known', coalesce(quote_literal(each), 'null')
      using errcode = 'invalid_parameter_value', hint = 'There are row and statement.';
  elsif max_change_bytes is null or max_change_bytes not between 1024 and 8388608 then
    raise exception 'max_change_bytes: % is not from 1024 to 8388608', coalesce(max_change_bytes::text, 'null')
      using errcode = 'invalid_parameter_value', hint = 'It is the size of a change as JSON; 4194304 is usual.';
  end if;
end
$$;
revoke all on function rowcast.refuse_options(regclass, text[], text[], text, int, text) from public;
comment on function rowcast.refuse_options(regclass, text[], text[], text, int, text) is 'Fails, with what would be right, if the options of a watch are wrong.';

create or replace function rowcast.watch(relation regclass, ops text[] default '{INSERT,UPDATE,DELETE,TRUNCATE}', leave_out text[] default '{}',
  old text default 'full', max_change_bytes int default 4194304, each text default 'row') returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  topic  text;
  other  regclass;
  before text[]; -- the ops until now
  gap    bool := false;
begin
  perform pg_advisory_xact_lock(32210705904137077); -- one watch, unwatch or install at a time
  perform rowcast.refuse_unwatchable(relation);
  perform rowcast.refuse_options(relation, ops, leave_out, old, max_change_bytes, each);
  if each = 'statement' then
    perform rowcast.refuse_statements(relation);
  end if;
  if exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = relation and not c.relispartition) then
    raise notice '% has tables that inherit from it; each of them is watched by itself', relation;
  end if;
  select w.topic, w.ops into topic, before from rowcast.watched w where w.relation = relation;
  if found then
    gap := not before @> ops;
  else
    topic := rowcast.topic_of(relation);
    select w.relation into other from rowcast.watched w where w.topic = topic;
    if exists (select from pg_class c where c.oid = other) then
      raise exception 'the topic % is that of the table % already', topic, other
        using errcode = 'duplicate_object', hint = format('A table that is renamed keeps its topic. To give it up: select rowcast.unwatch(%L).', topic);
    end if;
    -- Of a table that was dropped.
    delete from rowcast.watched w where w.topic = topic;
    gap := found;
  end if;
  insert into rowcast.watched as w (topic, relation, ops, leave_out, old, max_change_bytes, each, columns, key)
    values (topic, relation, ops, leave_out, old, max_change_bytes, each,
      array(select c.name from unnest(rowcast.columns_of(relation)) with ordinality c(name, place) where c.name <> all (leave_out) order by c.place),
      rowcast.key_of(relation))
    on conflict on constraint watched_pkey do update set ops = excluded.ops, leave_out = excluded.leave_out, old = excluded.old,
      max_change_bytes = excluded.max_change_bytes, each = excluded.each, columns = excluded.columns, key = excluded.key;
  perform rowcast.write_capture(topic);
  perform rowcast.write_triggers(topic);
  update rowcast.state s set catalogue = s.catalogue + 1;
  -- Last: by now whoever wrote uncaptured has ended, so that the new feed begins after it. While paused,
  -- resume will begin one.
  gap := gap or exists (select from rowcast.unwatched u where u.topic = topic);
  if gap and exists (select from rowcast.state s where s.paused_at is null) then
    perform rowcast.begin_feed('rewatched');
  end if;
  return topic;
end
$$;
revoke all on function rowcast.watch(regclass, text[], text[], text, int, text) from public;
comment on function rowcast.watch(regclass, text[], text[], text, int, text) is
'Makes the changes of a table durable, and returns its topic. Again, it changes the options, and takes notice of new columns, keys and partitions.
ops: which of INSERT, UPDATE, DELETE, TRUNCATE. leave_out: columns that never leave the table; then a column that is added or renamed is not delivered until the table is watched again.
old: full, key or none: what is kept of the old row. max_change_bytes: a larger change goes without its largest values.
each: row, or statement for tables that are written many rows at a time: for these it costs less. Not for tables with ROW triggers of their own. What a volatile function that a statement calls, or a trigger added later, changes in the same table may come out before what was changed first.
A table whose watch ended in this feed, that was dropped and made anew, or that gets further ops has changes that were not captured: then a new feed begins (rewatched), and all clients, of all tables, are told to reset. The first watch of a table, and other options, do not do that.
It waits for the transactions that are writing to the table, and writers wait for it: set lock_timeout.
After a write to the table lastval() in that session is not the id that the table gave: use RETURNING, or currval(pg_get_serial_sequence(...)).
Values become JSON with the rights of the owner of this schema, so watch tables of roles that you trust: a cast to json of a type of theirs would run.';

create or replace function rowcast.end_watch(topic text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
begin
  perform pg_advisory_xact_lock(32210705904137077);
  delete from rowcast.watched w where w.topic = end_watch.topic;
  if not found then
    raise exception '% is not watched', topic
      using errcode = 'undefined_object', hint = coalesce('There are: ' || (select string_agg(w.topic, ', ' order by w.topic) from rowcast.watched w) || '.', 'Nothing is.');
  end if;
  -- With its triggers, wherever they are: a table may have been renamed, a partition detached.
  execute format('drop function if exists rowcast.%I() cascade', rowcast.capture_name(topic));
  -- First the state, whose lock a new feed takes too: what is noted here is of the feed that is current then.
  update rowcast.state s set catalogue = s.catalogue + 1;
  insert into rowcast.unwatched values (topic) on conflict do nothing;
end
$$;
revoke all on function rowcast.end_watch(text) from public;
comment on function rowcast.end_watch(text) is 'What the two unwatch do, by the exact topic.';

-- No SET clause: the table is to be found as the caller would find it.
create or replace function rowcast.unwatch(topic text) returns void language sql as $$
  select rowcast.end_watch(coalesce(
    (select w.topic from rowcast.watched w where w.topic operator(pg_catalog.=) $1),
    (select w.topic from rowcast.watched w where w.relation operator(pg_catalog.=) pg_catalog.to_regclass($1)),
    $1))
$$;
revoke all on function rowcast.unwatch(text) from public;
comment on function rowcast.unwatch(text) is 'Ends a watch by its topic, also of a table that was dropped, or by the name of the table. What is in the log stays. Watching it again begins a new feed: see watch. It waits for those who use the table, and they for it: set lock_timeout.';

create or replace function rowcast.unwatch(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform rowcast.end_watch(coalesce((select w.topic from rowcast.watched w where w.relation = unwatch.relation), relation::text));
end
$$;
revoke all on function rowcast.unwatch(regclass) from public;
comment on function rowcast.unwatch(regclass) is 'Ends the watch of a table. What is in the log stays. Watching it again begins a new feed: see watch.';
