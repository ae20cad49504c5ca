//! The log as single changes, by SQL of the tests' own.

/// `rowcast.event` with a row for each change, to be ordered by `id` and `place`. For a FROM clause.
pub const CHANGES: &str = "(
    select e.id, c.place, e.xid, e.at, e.topic, e.op, e.key, c.data, c.old, e.cut
      from rowcast.event e cross join lateral (
        select 1 as place, e.data, e.old where e.changes = 1
        union all
        select p, s.data[p], nullif(s.old[p], '')
          from (select string_to_array(e.data, chr(30)) as data, string_to_array(e.old, chr(30)) as old) s,
               generate_series(1, e.changes) p
         where e.changes > 1) c)";
