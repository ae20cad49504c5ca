-- The tables that are watched, and how.

create table if not exists rowcast.watched (
  topic            text primary key check (pg_catalog.octet_length(topic) <= 127),
  relation         regclass not null unique,
  ops              text[] not null,
  leave_out        text[] not null,
  old              text not null check (old in ('full', 'key', 'none')),
  max_change_bytes int not null check (max_change_bytes >= 1024),
  each             text not null default 'row' check (each in ('row', 'statement')),
  columns          text[] not null,
  key              text[] not null,
  since            timestamptz not null default pg_catalog.now()
);
revoke all on rowcast.watched from public;

comment on table rowcast.watched is 'One row for each watched table. Written by rowcast.watch and rowcast.unwatch alone.';
comment on column rowcast.watched.topic is 'What clients subscribe to: schema.table as it was named when the watch began. A renamed table keeps it.';
comment on column rowcast.watched.relation is 'The table; the root, where it is partitioned.';
comment on column rowcast.watched.ops is 'Of INSERT, UPDATE, DELETE, TRUNCATE those that are captured.';
comment on column rowcast.watched.leave_out is 'Columns that never leave the table.';
comment on column rowcast.watched.old is 'What is kept of the old row: full, key or none.';
comment on column rowcast.watched.max_change_bytes is 'A change whose rows are longer, as JSON, is logged without its largest values.';
comment on column rowcast.watched.each is 'Whether the trigger runs for each row or for each statement.';
comment on column rowcast.watched.columns is 'The columns that are delivered, in the order of the table.';
comment on column rowcast.watched.key is 'The columns of the primary key, in its order; empty without one.';
comment on column rowcast.watched.since is 'When it was first watched.';

-- Who resumes in the same feed is told that nothing was missed. So it must be known what was.
create table if not exists rowcast.unwatched (
  topic text primary key
);
revoke all on rowcast.unwatched from public;

comment on table rowcast.unwatched is 'Topics whose watch ended in the current feed: when one of them is watched again, a new feed begins. Emptied by each new feed.';
comment on column rowcast.unwatched.topic is 'As in rowcast.watched.';
