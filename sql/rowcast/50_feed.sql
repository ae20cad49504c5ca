-- Feeds: the numbering starts again, and everybody is told.

create or replace function rowcast.cluster() returns text
language sql security definer set search_path = pg_catalog, pg_temp as $$
  -- The timeline of what is written now: that of the last checkpoint is late after a failover.
  select s.system_identifier || ':' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) from pg_control_system() s
$$;
revoke all on function rowcast.cluster() from public;
comment on function rowcast.cluster() is '<system identifier>:<timeline> of this server. It changes when the database is restored or fails over. For the listener.';

create or replace function rowcast.keep_feed() returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
  update rowcast.state set cluster = rowcast.cluster()
$$;
revoke all on function rowcast.keep_feed() from public;
comment on function rowcast.keep_feed() is 'Goes on with the feed on another cluster or timeline, where it is known that nothing published was lost. For the listener.';

-- No scan of the whole log: its leaves have no statistics.
create or replace function rowcast.begin_feed(reason text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  fresh   text := substr(translate(gen_random_uuid()::text, '-', ''), 1, 11); -- 44 random bits
  cluster text := rowcast.cluster();
  own     xid8 := pg_current_xact_id();
  now     pg_snapshot;
  base    bigint;
begin
  perform from rowcast.state for update;
  -- In a cluster that was restored from a dump transactions are numbered anew. Events of the old one would
  -- come out again when the numbers reach them. They can be told: they are visible, and by their numbers, in
  -- the snapshot of the very statement that sees them, they would not be.
  if exists (select from rowcast.event e where e.xid >= pg_snapshot_xmax(pg_current_snapshot()) and e.xid <> own)
    or exists (select from rowcast.event e where e.xid = any (array(select pg_snapshot_xip(pg_current_snapshot())))) then
    -- Who waited for this lock would hold up all writers. The caller tries again.
    lock table rowcast.event_0, rowcast.event_1, rowcast.event_2, rowcast.event_3 in access exclusive mode nowait;
    truncate rowcast.event_0, rowcast.event_1, rowcast.event_2, rowcast.event_3;
  end if;
  now := pg_current_snapshot();
  -- A snapshot takes the own transaction for one that has ended. What it changes from here on is of the new feed.
  if own < pg_snapshot_xmax(now) then
    now := format('%s:%s:%s', pg_snapshot_xmin(now), pg_snapshot_xmax(now),
      (select string_agg(x::text, ',' order by x) from (select pg_snapshot_xip(now) union select own) r(x)));
  end if;
  -- Far from the ticks that a leader makes of the old feed until this one is committed: their ids come one by
  -- one, and of two with the same id one fails, which must not be us.
  select coalesce(greatest(max(t.id), (select s.first_tick from rowcast.state s)) + (1 << 20), 1) into base from rowcast.tick t;
  execute format('insert into rowcast.tick_%s (id, prev, snapshot, first, events) values ($1, $2, $2, 1, 0)',
    (select (last_value >> 36) & 3 from rowcast.event_id)) using base, now;
  insert into rowcast.state as s (version, feed, feed_reason, feed_began, first_tick, cluster)
    values (1, fresh, reason, clock_timestamp(), base, cluster)
    on conflict (one) do update set feed = excluded.feed, feed_reason = excluded.feed_reason,
      feed_began = excluded.feed_began, first_tick = excluded.first_tick, cluster = excluded.cluster;
  -- Who is told to reset has missed nothing.
  delete from rowcast.unwatched;
  return fresh;
end
$$;
revoke all on function rowcast.begin_feed(text) from public;
comment on function rowcast.begin_feed(text) is 'Begins a new feed, with a random id and a base tick that has no changes, and returns the id. Clients of the old one are told to reset. Fails at once, with lock_not_available, if the log has changes of another cluster and cannot be emptied now. For the listener.';
