-- Feeds: the numbering starts again, and everybody is told.

create or replace function rowcast.begin_feed(reason text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  fresh   text := substr(translate(gen_random_uuid()::text, '-', ''), 1, 11); -- 44 random bits
  cluster text := (select s.system_identifier || ':' || c.timeline_id from pg_control_system() s, pg_control_checkpoint() c);
  now     pg_snapshot := pg_current_snapshot();
  base    bigint;
begin
  perform from rowcast.state for update;
  select greatest(max(t.id), (select s.first_tick from rowcast.state s), 0) + 1 into base from rowcast.tick t;
  execute format('insert into rowcast.tick_%s (id, prev, snapshot, first, events) values ($1, $2, $2, 1, 0)',
    (select (last_value >> 36) & 3 from rowcast.event_id)) using base, now;
  insert into rowcast.state as s (version, feed, feed_reason, feed_began, first_tick, cluster)
    values (1, fresh, reason, clock_timestamp(), base, cluster)
    on conflict (one) do update set feed = excluded.feed, feed_reason = excluded.feed_reason,
      feed_began = excluded.feed_began, first_tick = excluded.first_tick, cluster = excluded.cluster;
  return fresh;
end
$$;
revoke all on function rowcast.begin_feed(text) from public;
comment on function rowcast.begin_feed(text) is 'Begins a new feed, with a random id and a base tick that has no changes, and returns the id. Clients of the old one are told to reset. For the listener.';
