-- The triggers of a watched table.
--
-- "!" sorts before letters: PostgreSQL fires in the order of the names, and a change is to be logged
-- before the user's triggers and the cascades of foreign keys (RI_…) change anything further.

create or replace function rowcast.write_triggers(topic text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  w       rowcast.watched;
  call    text := format('rowcast.%I()', rowcast.capture_name(topic));
  events  text;
  present text;
  leaf    regclass;
  op      record;
begin
  select * into strict w from rowcast.watched o where o.topic = write_triggers.topic;
  select string_agg(o, ' or ' order by o) into events from unnest(w.ops) o where o <> 'TRUNCATE' and w.each = 'row';
  -- Bits of pg_trigger.tgtype: INSERT 4, DELETE 8, UPDATE 16.
  select concat_ws(' or ', case when t.tgtype & 8 > 0 then 'DELETE' end, case when t.tgtype & 4 > 0 then 'INSERT' end, case when t.tgtype & 16 > 0 then 'UPDATE' end)
    into present from pg_trigger t where t.tgrelid = w.relation and t.tgname = '!rowcast_change';
  if present is distinct from events then
    if present is not null then
      execute format('drop trigger "!rowcast_change" on %s', w.relation);
    end if;
    if events is not null then
      execute format('create trigger "!rowcast_change" after %s on %s for each row execute function %s', events, w.relation, call);
    end if;
  end if;
  -- A trigger with transition tables is for one kind of change.
  for op in select * from (values ('INSERT', 'new table as new_rows'), ('UPDATE', 'new table as new_rows old table as old_rows'),
      ('DELETE', 'old table as old_rows')) o(name, tables) loop
    present := '!rowcast_' || lower(op.name);
    if w.each = 'statement' and op.name = any (w.ops) then
      if not exists (select from pg_trigger t where t.tgrelid = w.relation and t.tgname = present) then
        execute format('create trigger %I after %s on %s referencing %s for each statement execute function %s', present, op.name, w.relation, op.tables, call);
      end if;
    elsif exists (select from pg_trigger t where t.tgrelid = w.relation and t.tgname = present) then
      execute format('drop trigger %I on %s', present, w.relation);
    end if;
  end loop;
  -- Row triggers of a partitioned table are copied to its partitions, those of statements are not.
  for leaf in select w.relation union select p.relid from pg_partition_tree(w.relation) p loop
    if 'TRUNCATE' = any (w.ops) then
      -- Replacing takes a lock that keeps writers out, even where it changes nothing.
      if not exists (select from pg_trigger t where t.tgrelid = leaf and t.tgname = '!rowcast_truncate') then
        execute format('create trigger "!rowcast_truncate" after truncate on %s for each statement execute function %s', leaf, call);
      end if;
    elsif exists (select from pg_trigger t where t.tgrelid = leaf and t.tgname = '!rowcast_truncate') then
      execute format('drop trigger "!rowcast_truncate" on %s', leaf);
    end if;
    -- ALWAYS: session_replication_role = replica (logical replication, for one) is no reason to miss a change.
    for present in select t.tgname from pg_trigger t where t.tgrelid = leaf and t.tgname like '!rowcast\_%' and t.tgenabled <> 'A' loop
      execute format('alter table %s enable always trigger %I', leaf, present);
    end loop;
  end loop;
end
$$;
revoke all on function rowcast.write_triggers(text) from public;
comment on function rowcast.write_triggers(text) is 'Puts the triggers of a watched table in place: those that are missing are made, those that its ops do not name go.';
