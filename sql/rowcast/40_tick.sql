-- Ticks: which changes came when, so that offsets can be told again from the database alone.

create table if not exists rowcast.tick (
  id       bigint not null,
  prev     pg_snapshot not null,
  snapshot pg_snapshot not null,
  first    bigint not null,
  events   bigint not null,
  bytes    bigint not null default 0,
  at       timestamptz not null default pg_catalog.clock_timestamp()
);

create table if not exists rowcast.tick_0 (primary key (id)) inherits (rowcast.tick) with (autovacuum_enabled = off);
create table if not exists rowcast.tick_1 (primary key (id)) inherits (rowcast.tick) with (autovacuum_enabled = off);
create table if not exists rowcast.tick_2 (primary key (id)) inherits (rowcast.tick) with (autovacuum_enabled = off);
create table if not exists rowcast.tick_3 (primary key (id)) inherits (rowcast.tick) with (autovacuum_enabled = off);

create index if not exists tick_0_first on rowcast.tick_0 (first);
create index if not exists tick_1_first on rowcast.tick_1 (first);
create index if not exists tick_2_first on rowcast.tick_2 (first);
create index if not exists tick_3_first on rowcast.tick_3 (first);

revoke all on rowcast.tick, rowcast.tick_0, rowcast.tick_1, rowcast.tick_2, rowcast.tick_3 from public;

comment on table rowcast.tick is 'Steps of the log. A tick has the changes that are visible in snapshot and not in prev, in the order max(id) over (partition by xid), id. Always empty itself: the leaves tick_0 to tick_3 are emptied with those of the events.';
comment on column rowcast.tick.id is 'The tick before it plus 1, so that of two leaders one fails; of a base tick, a number far beyond.';
comment on column rowcast.tick.prev is 'The snapshot of the tick before it.';
comment on column rowcast.tick.snapshot is 'What was visible when the tick was made.';
comment on column rowcast.tick.first is 'Offset of its first change.';
comment on column rowcast.tick.events is 'How many changes it has; 0 for the base tick of a feed.';
comment on column rowcast.tick.bytes is 'Bytes of their rows, new and old.';
comment on column rowcast.tick.at is 'When it was made.';
comment on table rowcast.tick_0 is 'A leaf of the tick ring.';
comment on table rowcast.tick_1 is 'A leaf of the tick ring.';
comment on table rowcast.tick_2 is 'A leaf of the tick ring.';
comment on table rowcast.tick_3 is 'A leaf of the tick ring.';
