-- The rights of a listener.

create or replace function rowcast.grant_listener(role name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('grant usage on schema rowcast to %I', role);
  execute format('grant select on rowcast.state, rowcast.watched, rowcast.event, rowcast.tick, rowcast.event_id to %I', role);
  for leaf in 0..3 loop
    execute format('grant select on rowcast.event_%1$s, rowcast.tick_%1$s to %2$I', leaf, role);
    execute format('grant insert on rowcast.tick_%s to %I', leaf, role);
  end loop;
  execute format('grant execute on function rowcast.begin_feed(text), rowcast.keep_feed(), rowcast.cluster(), rowcast.turn_ring(bigint), rowcast.empty_leaf(int, pg_snapshot), rowcast.status() to %I', role);
end
$$;
revoke all on function rowcast.grant_listener(name) from public;
comment on function rowcast.grant_listener(name) is 'Gives a role what a listener needs, and no more: it reads the log, makes ticks and feeds, turns and empties the ring. It can neither write changes nor watch tables.';
