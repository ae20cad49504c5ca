-- The ring is turned into an empty leaf, and leaves that nobody needs any more are emptied: by the
-- listener, so nothing is lost while it is away.

create or replace function rowcast.turn_ring(generation bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  next_leaf int := (generation + 1) & 3;
  taken bool;
begin
  -- One at a time: two that turn at once would leave a leaf out.
  perform from rowcast.state for update;
  if (select last_value >> 36 from rowcast.event_id) <> generation then
    return null;
  end if;
  execute format('select exists (select from rowcast.event_%1$s) or exists (select from rowcast.tick_%1$s)', next_leaf) into taken;
  if taken then
    return null;
  end if;
  perform setval('rowcast.event_id', (generation + 1) << 36);
  return generation + 1;
end
$$;
revoke all on function rowcast.turn_ring(bigint) from public;
comment on function rowcast.turn_ring(bigint) is 'Moves the ring on from the generation named, and returns the next; null if it is another one already, or the next leaf is not empty. For the listener.';

create or replace function rowcast.empty_leaf(leaf int, horizon pg_snapshot) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  newest xid8;
  needed bool;
begin
  if leaf not between 0 and 3 then
    raise exception 'there is no leaf %; there are 0 to 3', leaf using errcode = 'invalid_parameter_value';
  end if;
  -- What is checked under the lock must be seen by a snapshot that is younger than the lock.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'empty_leaf runs at the isolation level read committed alone' using errcode = 'active_sql_transaction';
  end if;
  if (select (last_value >> 36) & 3 from rowcast.event_id) = leaf then
    return 'current';
  end if;
  begin
    -- Waiting for the lock would hold up everybody behind us, the reader first of all.
    execute format('lock table rowcast.event_%1$s, rowcast.tick_%1$s in access exclusive mode nowait', leaf);
  exception when lock_not_available then
    return 'busy';
  end;
  -- No writer is in flight here now, and no prepared transaction. The ring may have turned meanwhile.
  if (select (last_value >> 36) & 3 from rowcast.event_id) = leaf then
    return 'current';
  end if;
  execute format('select e.xid from rowcast.event_%s e order by e.xid desc limit 1', leaf) into newest;
  if newest >= pg_snapshot_xmin(horizon) then
    execute format('select exists (select from rowcast.event_%s e where e.xid >= pg_snapshot_xmin($1) and not pg_visible_in_snapshot(e.xid, $1))', leaf)
      into needed using horizon;
    if needed then
      return 'needed';
    end if;
  end if;
  -- The newest tick says how far the numbering is.
  execute format('select exists (select from rowcast.tick_%s t where t.id = (select max(a.id) from rowcast.tick a))', leaf) into needed;
  if needed then
    return 'needed';
  end if;
  execute format('truncate rowcast.event_%1$s, rowcast.tick_%1$s', leaf);
  return 'emptied';
end
$$;
revoke all on function rowcast.empty_leaf(int, pg_snapshot) from public;
comment on function rowcast.empty_leaf(int, pg_snapshot) is 'Empties a leaf of events and ticks if every event in it is visible in the horizon: emptied. Else why not: current, busy (somebody reads or writes it; it does not wait), needed. For the listener.';
