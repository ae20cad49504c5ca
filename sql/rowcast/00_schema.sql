-- The schema, and what must be true before anything is installed.
--
-- These files install the durable log. `rowcast install` runs them in one transaction; so does
--   cat sql/rowcast/*.sql | psql -1 -v ON_ERROR_STOP=1
-- They can be run again, by the role that ran them first: that is how the schema is upgraded.
-- No superuser, no extension and no change of the server's settings is needed.

do $$
declare
  owner text := (select pg_catalog.pg_get_userbyid(n.nspowner) from pg_catalog.pg_namespace n where n.nspname = 'rowcast');
  installed int;
begin
  if pg_catalog.current_setting('server_version_num')::int < 140000 then
    raise exception 'rowcast needs PostgreSQL 14 or later; this is %', pg_catalog.current_setting('server_version')
      using errcode = 'feature_not_supported';
  end if;
  if pg_catalog.current_setting('server_encoding') = 'SQL_ASCII' then
    raise exception 'the encoding of this database is SQL_ASCII: what its texts mean is not known'
      using errcode = 'feature_not_supported', hint = 'Clients are sent UTF-8. Dump the database and load it into one with encoding UTF8.';
  end if;
  -- What cannot be told in UTF-8 could not be read from the log, nor anything after it.
  if pg_catalog.current_setting('server_encoding') <> 'UTF8' then
    begin
      if pg_catalog.pg_encoding_max_length(pg_catalog.pg_char_to_encoding(pg_catalog.current_setting('server_encoding'))) > 1 then
        raise untranslatable_character;
      end if;
      perform pg_catalog.convert(pg_catalog.set_byte('\x00', 0, b), pg_catalog.current_setting('server_encoding')::name, 'UTF8')
        from pg_catalog.generate_series(128, 255) b;
    exception when untranslatable_character or character_not_in_repertoire then
      raise exception 'the encoding of this database is %: it has texts that do not exist in UTF-8', pg_catalog.current_setting('server_encoding')
        using errcode = 'feature_not_supported', hint = 'Clients are sent UTF-8. Dump the database and load it into one with encoding UTF8.';
    end;
  end if;
  if owner <> current_user then
    raise exception 'the schema rowcast belongs to %, and this is %', owner, current_user
      using errcode = 'insufficient_privilege', hint = pg_catalog.format('Install as that role: set role %I.', owner);
  end if;
  if pg_catalog.to_regclass('rowcast.state') is not null then
    execute 'select version from rowcast.state' into installed;
    if installed > 2 then
      raise exception 'the schema rowcast has version %, and these files are version 2', installed
        using errcode = 'object_not_in_prerequisite_state', hint = 'Install with the newer rowcast.';
    end if;
  end if;
  -- What was installed already: the last file closes to others what was not.
  perform pg_catalog.set_config('rowcast.before', coalesce(pg_catalog.string_agg(pg_catalog.concat(o.tableoid, ' ', o.oid), ','), ''), false) from (
    select n.tableoid, n.oid from pg_catalog.pg_namespace n where n.nspname = 'rowcast' union all
    select c.tableoid, c.oid from pg_catalog.pg_class c where c.relnamespace = pg_catalog.to_regnamespace('rowcast') union all
    select p.tableoid, p.oid from pg_catalog.pg_proc p where p.pronamespace = pg_catalog.to_regnamespace('rowcast')) o
   where installed is not null;
end
$$;

create schema if not exists rowcast;
comment on schema rowcast is 'The durable log of changes of watched tables. Nothing in it is open to PUBLIC: a role that could write here could forge changes.';
revoke all on schema rowcast from public;
