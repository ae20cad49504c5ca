-- How the log is: for people, for `rowcast status`, and for the listener's metrics.

create or replace function rowcast.status(
  out version int, out feed text, out feed_reason text, out feed_began timestamptz, out paused_at timestamptz, out watched bigint,
  out generation bigint, out last_tick bigint, out last_offset bigint, out last_tick_at timestamptz,
  out waiting bigint, out waiting_since timestamptz, out waiting_s double precision,
  out log_bytes bigint, out log_since timestamptz, out log_s double precision,
  out oldest_xid xid8, out oldest_transaction timestamptz, out oldest_transaction_s double precision, out listeners json, out queue_usage double precision)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  seen pg_snapshot;
begin
  select s.version, s.feed, s.feed_reason, s.feed_began, s.paused_at into version, feed, feed_reason, feed_began, paused_at from rowcast.state s;
  select count(*) into watched from rowcast.watched;
  select e.last_value >> 36 into generation from rowcast.event_id e;
  select t.id, t.first + t.events - 1, t.at, t.snapshot into last_tick, last_offset, last_tick_at, seen from rowcast.tick t order by t.id desc limit 1;
  -- Counted to 100,000: more is much too much anyway.
  select count(*), min(w.at) into waiting, waiting_since from (
    select e.at from rowcast.event e where e.xid >= pg_snapshot_xmax(seen)
    union all
    select e.at from rowcast.event e where e.xid = any (array(select pg_snapshot_xip(seen)))
    limit 100000) w;
  select sum(pg_total_relation_size(i.inhrelid)) into log_bytes
    from pg_inherits i where i.inhparent in ('rowcast.event'::regclass, 'rowcast.tick'::regclass);
  select min(f.at) into log_since from (
    (select e.at from rowcast.event_0 e order by e.xid, e.id limit 1) union all
    (select e.at from rowcast.event_1 e order by e.xid, e.id limit 1) union all
    (select e.at from rowcast.event_2 e order by e.xid, e.id limit 1) union all
    (select e.at from rowcast.event_3 e order by e.xid, e.id limit 1)) f;
  oldest_xid := pg_snapshot_xmin(pg_current_snapshot());
  select min(o.began) into oldest_transaction from (
    select a.xact_start from pg_stat_activity a where a.backend_xid is not null and a.pid <> pg_backend_pid()
    union all
    select p.prepared from pg_prepared_xacts p) o(began);
  waiting_s := extract(epoch from clock_timestamp() - waiting_since);
  log_s := extract(epoch from clock_timestamp() - log_since);
  oldest_transaction_s := extract(epoch from clock_timestamp() - oldest_transaction);
  -- The leader has the lock of who reads the log, whose key is the FNV-1a hash of rowcast:log.
  select coalesce(json_agg(json_build_object('pid', a.pid, 'name', a.application_name, 'address', host(a.client_addr), 'leader', l.pid is not null)
      order by l.pid is null, a.pid), '[]')
    into listeners
    from pg_stat_activity a
    left join pg_locks l on l.pid = a.pid and l.locktype = 'advisory' and l.granted and (l.classid, l.objid, l.objsubid) = (1785803957::oid, 4278202016::oid, 1)
   where a.datname = current_database() and a.application_name ~ '^rowcast-(listener|dev)';
  queue_usage := pg_notification_queue_usage();
end
$$;
revoke all on function rowcast.status() from public;
comment on function rowcast.status() is
'One row: how the log is. last_offset: up to which change ticks have been made. waiting, waiting_since, waiting_s: committed changes without a tick (counted to 100,000), when the first of them was made, and how many seconds ago. log_bytes, log_since, log_s: size of the log, and its oldest change.
oldest_xid, oldest_transaction: the oldest transaction in flight, and the earliest that can be seen to have begun (other roles need pg_read_all_stats); leaves with its changes cannot be emptied. queue_usage: of the queue of NOTIFY, 0 to 1.';
