-- The triggers of a watched table.
--
-- "!" sorts before letters: PostgreSQL fires in the order of the names, and a change is to be logged
-- before the user's triggers and the cascades of foreign keys (RI_...) change anything further.

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
  -- A trigger with transition tables is for one kind of change. The old rows of an UPDATE have to be fetched for it.
  for op in select o.name, o.fresh, o.gone, '!rowcast_' || lower(o.name) as trigger from (values ('INSERT', 'new_rows', null),
      ('UPDATE', 'new_rows', case when w.old <> 'none' then 'old_rows' end), ('DELETE', null, 'old_rows')) o(name, fresh, gone) loop
    if exists (select from pg_trigger t where t.tgrelid = w.relation and t.tgname = op.trigger
        and (w.each <> 'statement' or op.name <> all (w.ops) or (t.tgnewtable, t.tgoldtable) is distinct from (op.fresh, op.gone))) then
      execute format('drop trigger %I on %s', op.trigger, w.relation);
    end if;
    if w.each = 'statement' and op.name = any (w.ops)
        and not exists (select from pg_trigger t where t.tgrelid = w.relation and t.tgname = op.trigger) then
      execute format('create trigger %I after %s on %s referencing %s for each statement execute function %s', op.trigger, op.name, w.relation,
        concat_ws(' ', 'new table as ' || op.fresh, 'old table as ' || op.gone), call);
    end if;
  end loop;
  -- Row triggers of a partitioned table are copied to its partitions, those of statements are not.
  for leaf in select w.relation union select p.relid from pg_partition_tree(w.relation) p where p.relid not in (select o.relation from rowcast.watched o) loop
    -- What was a partition of another watched table still has its trigger.
    if exists (select from pg_trigger t where t.tgrelid = leaf and t.tgname = '!rowcast_truncate' and t.tgfoid <> call::regprocedure) then
      execute format('drop trigger "!rowcast_truncate" on %s', leaf);
    end if;
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
