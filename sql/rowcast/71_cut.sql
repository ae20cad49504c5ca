-- Changes that are too large.

create or replace function rowcast.cut_change(inout data text, inout old text, key text, max_bytes int, out cut text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  kept  text[] := array(select json_array_elements_text(key::json));
  names text[] := '{}';
  bytes bigint := octet_length(coalesce(data, '')) + octet_length(coalesce(old, ''));
  next  record;
begin
  for next in
    select v.key as name, sum(octet_length(v.value::text) + octet_length(to_json(v.key)::text) + 2) as bytes
      from (select * from json_each(data::json) union all select * from json_each(old::json)) v
     where v.key <> all (kept)
     group by v.key order by 2 desc, 1
  loop
    exit when bytes <= max_bytes;
    names := names || next.name;
    bytes := bytes - next.bytes;
  end loop;
  data := rowcast.without(data, names);
  old := rowcast.without(old, names);
  cut := to_json(names)::text;
end
$$;
revoke all on function rowcast.cut_change(text, text, text, int) from public;
comment on function rowcast.cut_change(text, text, text, int) is 'The change without its largest values, so that it has at most so many bytes; values of the key stay. In cut, the names of the columns that went. For capture functions.';

create or replace function rowcast.without(object text, names text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when object is not null then
    (select '{' || coalesce(string_agg(to_json(v.key)::text || ':' || v.value::text, ',' order by v.place), '') || '}'
       from json_each(object::json) with ordinality v(key, value, place) where v.key <> all (names)) end
$$;
revoke all on function rowcast.without(text, text[]) from public;
comment on function rowcast.without(text, text[]) is 'A JSON object without some of its members; the others stay as they are, to the byte.';
