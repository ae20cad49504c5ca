-- The last file: the first feed begins, and after an upgrade the capture functions are written anew.

do $$
declare
  topic text;
begin
  -- Default privileges may have opened to others what was made just now. What a listener was granted before stays.
  perform rowcast.close_to_others(o.tableoid, o.oid, o.owner, o.acl) from (
    select n.tableoid, n.oid, n.nspowner, n.nspacl from pg_catalog.pg_namespace n where n.nspname = 'rowcast' union all
    select c.tableoid, c.oid, c.relowner, c.relacl from pg_catalog.pg_class c where c.relnamespace = 'rowcast'::regnamespace union all
    select p.tableoid, p.oid, p.proowner, p.proacl from pg_catalog.pg_proc p where p.pronamespace = 'rowcast'::regnamespace) o(tableoid, oid, owner, acl)
   where pg_catalog.concat(o.tableoid, ' ', o.oid) <> all (pg_catalog.string_to_array(pg_catalog.current_setting('rowcast.before'), ','));
  if not exists (select from rowcast.state) then
    perform rowcast.begin_feed('installed');
  end if;
  -- Replaced in place: no lock on the tables is needed.
  for topic in select w.topic from rowcast.watched w join pg_catalog.pg_class c on c.oid = w.relation loop
    perform rowcast.write_capture(topic);
  end loop;
  update rowcast.state set version = 2;
end
$$;
