-- The last file: the first feed begins, and after an upgrade the capture functions are written anew.

do $$
declare
  object record;
  topic  text;
begin
  if not exists (select from rowcast.state) then
    -- Default privileges of the installing role may have opened to others what was made just now.
    for object in
      select pg_catalog.format('%s %s', case when c.relkind = 'S' then 'sequence' else 'table' end, c.oid::regclass) as name, a.grantee
        from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
       where c.relnamespace = 'rowcast'::regnamespace and c.relkind in ('r', 'S') and a.grantee not in (0, c.relowner)
      union
      select pg_catalog.format('function %s', p.oid::regprocedure), a.grantee from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
       where p.pronamespace = 'rowcast'::regnamespace and a.grantee not in (0, p.proowner)
      union
      select 'schema rowcast', a.grantee from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
       where n.nspname = 'rowcast' and a.grantee not in (0, n.nspowner)
    loop
      execute pg_catalog.format('revoke all on %s from %I', object.name, pg_catalog.pg_get_userbyid(object.grantee));
    end loop;
    perform rowcast.begin_feed('installed');
  end if;
  -- Replaced in place: no lock on the tables is needed.
  for topic in select w.topic from rowcast.watched w join pg_catalog.pg_class c on c.oid = w.relation loop
    perform rowcast.write_capture(topic);
  end loop;
  update rowcast.state set version = 2;
end
$$;
