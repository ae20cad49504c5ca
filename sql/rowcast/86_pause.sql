-- The way out when a disk fills: pause, discard, and later resume.

create or replace function rowcast.pause() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  topic text;
begin
  perform pg_advisory_xact_lock(32210705904137077);
  update rowcast.state s set paused_at = clock_timestamp() where s.paused_at is null;
  for topic in select w.topic from rowcast.watched w order by 1 loop
    perform rowcast.write_capture(topic);
  end loop;
end
$$;
revoke all on function rowcast.pause() from public;
comment on function rowcast.pause() is 'Stops the capture of changes, at once and without a lock on the tables. What changes now is lost to clients: resume() resets them all.';

create or replace function rowcast.discard() returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '10s' as $$
begin
  perform pg_advisory_xact_lock(32210705904137077);
  if not exists (select from rowcast.state s where s.paused_at is not null) then
    raise exception 'changes are being captured: what is thrown away now would be missed'
      using errcode = 'object_not_in_prerequisite_state', hint = 'First select rowcast.pause();';
  end if;
  lock table rowcast.event_0, rowcast.event_1, rowcast.event_2, rowcast.event_3, rowcast.tick_0, rowcast.tick_1, rowcast.tick_2, rowcast.tick_3
    in access exclusive mode;
  perform rowcast.begin_feed('discarded'); -- before the ticks go: their numbers go on
  truncate rowcast.event_0, rowcast.event_1, rowcast.event_2, rowcast.event_3, rowcast.tick_0, rowcast.tick_1, rowcast.tick_2, rowcast.tick_3;
  perform rowcast.begin_feed('discarded');
end
$$;
revoke all on function rowcast.discard() from public;
comment on function rowcast.discard() is 'Throws the whole log away, which frees its space at once. Only while paused. It waits at most 10 s for those who read or have written it.';

create or replace function rowcast.resume() returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '10s' as $$
declare
  one record;
begin
  perform pg_advisory_xact_lock(32210705904137077);
  if not exists (select from rowcast.state s where s.paused_at is not null) then
    return;
  end if;
  -- Until here who writes is not captured; who writes after us is; and nobody is in between. Else a
  -- transaction that is in flight now would be in no feed, and in no reading of the table before it.
  for one in select w.relation from rowcast.watched w join pg_class c on c.oid = w.relation order by w.relation loop
    execute format('lock table %s in share row exclusive mode', one.relation);
  end loop;
  update rowcast.state s set paused_at = null;
  for one in select w.topic from rowcast.watched w join pg_class c on c.oid = w.relation order by 1 loop
    perform rowcast.write_capture(one.topic);
  end loop;
  perform rowcast.begin_feed('resumed');
end
$$;
revoke all on function rowcast.resume() from public;
comment on function rowcast.resume() is 'Captures changes again, in a new feed: all clients are told to reset. It waits at most 10 s for the transactions that are writing to watched tables, and writers wait for it.';
