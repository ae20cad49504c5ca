-- The event ring: where triggers write changes, in the writer's own transaction.
--
-- The ring has four leaves. The id says which: (id >> 36) & 3, so a trigger needs no look-up, and the
-- ring is moved on by setting the sequence. Leaves are emptied by TRUNCATE, never by DELETE.

-- cache 1: per row, the ids must come in the order of the writes, whichever session they are from.
create sequence if not exists rowcast.event_id as bigint cache 1;

create table if not exists rowcast.event (
  id       bigint not null,
  xid      xid8 not null default pg_catalog.pg_current_xact_id(),
  at       timestamptz not null default pg_catalog.clock_timestamp(),
  topic    text not null,
  op       "char" not null,
  key      text,
  data     text,
  old      text,
  cut      text,
  replaced text
);

-- Only where it is needed: these take a lock that keeps writers out.
do $$
begin
  -- Since version 2.
  if not exists (select from pg_catalog.pg_attribute a where a.attrelid = 'rowcast.event'::pg_catalog.regclass and a.attname = 'changes') then
    alter table rowcast.event add column changes int not null default 1;
  end if;
  -- Values that are too large for a page are not compressed: that costs the writer more than to write them.
  if exists (select from pg_catalog.pg_attribute a
      where a.attrelid = 'rowcast.event'::pg_catalog.regclass and a.attname in ('data', 'old') and a.attstorage <> 'e') then
    alter table rowcast.event alter data set storage external, alter old set storage external;
  end if;
end
$$;

-- Hardly anything is ever updated or deleted here, so there is nothing to vacuum.
create table if not exists rowcast.event_0 () inherits (rowcast.event) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table if not exists rowcast.event_1 () inherits (rowcast.event) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table if not exists rowcast.event_2 () inherits (rowcast.event) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table if not exists rowcast.event_3 () inherits (rowcast.event) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);

-- rowcast.fold updates and deletes. In a publication for all tables that would fail the user's statement. Other tables
-- of the schema have keys.
do $$
declare
  leaf text;
begin
  for leaf in select c.oid::pg_catalog.regclass from pg_catalog.pg_class c
      where c.relnamespace = 'rowcast'::pg_catalog.regnamespace and c.relname in ('event', 'event_0', 'event_1', 'event_2', 'event_3') and c.relreplident <> 'f' loop
    execute pg_catalog.format('alter table %s replica identity full', leaf);
  end loop;
end
$$;

create index if not exists event_0_xid_id on rowcast.event_0 (xid, id);
create index if not exists event_1_xid_id on rowcast.event_1 (xid, id);
create index if not exists event_2_xid_id on rowcast.event_2 (xid, id);
create index if not exists event_3_xid_id on rowcast.event_3 (xid, id);

-- Nearly always empty: see 70_fold.sql.
create index if not exists event_0_replaced on rowcast.event_0 (xid, replaced) where replaced is not null;
create index if not exists event_1_replaced on rowcast.event_1 (xid, replaced) where replaced is not null;
create index if not exists event_2_replaced on rowcast.event_2 (xid, replaced) where replaced is not null;
create index if not exists event_3_replaced on rowcast.event_3 (xid, replaced) where replaced is not null;

revoke all on sequence rowcast.event_id from public;
revoke all on rowcast.event, rowcast.event_0, rowcast.event_1, rowcast.event_2, rowcast.event_3 from public;

comment on sequence rowcast.event_id is 'Ids of events. Its value divided by 2^36 is the generation of the ring; the generation modulo 4 is the current leaf.';
comment on table rowcast.event is 'Changes of watched tables. Always empty itself: read it and you read the leaves event_0 to event_3.';
comment on column rowcast.event.id is 'Order of the changes of one transaction, and, for one row, of all.';
comment on column rowcast.event.xid is 'The transaction that made the change.';
comment on column rowcast.event.at is 'When the trigger ran.';
comment on column rowcast.event.topic is 'The watched table, as in rowcast.watched.';
comment on column rowcast.event.op is 'I, U, D or T.';
comment on column rowcast.event.changes is 'How many changes these are. Several are of one statement: then data and old have one after the other, with a record separator (U+001E) between, and an old that was not kept is empty.';
comment on column rowcast.event.key is 'JSON array of the names of the key columns; null without a primary key.';
comment on column rowcast.event.data is 'The new row as JSON; null for D and T, except that T of one partition names it.';
comment on column rowcast.event.old is 'The old row, or its key columns, as JSON; null if not kept.';
comment on column rowcast.event.cut is 'JSON array of the columns whose values were left out because the change was too large; null normally.';
comment on column rowcast.event.replaced is 'The row version that this change replaced, if the same transaction had made it, as 70_fold.sql has it; null otherwise. For rowcast.fold alone.';
comment on table rowcast.event_0 is 'A leaf of the event ring.';
comment on table rowcast.event_1 is 'A leaf of the event ring.';
comment on table rowcast.event_2 is 'A leaf of the event ring.';
comment on table rowcast.event_3 is 'A leaf of the event ring.';
