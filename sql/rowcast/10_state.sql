-- The one row of facts about this installation.

create table if not exists rowcast.state (
  one         bool primary key default true check (one),
  version     int not null,
  feed        text not null check (feed ~ '^[a-z0-9]{1,16}$'),
  feed_reason text not null,
  feed_began  timestamptz not null,
  first_tick  bigint not null,
  cluster     text not null,
  catalogue   bigint not null default 0,
  paused_at   timestamptz
);
revoke all on rowcast.state from public;

comment on table rowcast.state is 'One row: this installation and its current feed.';
comment on column rowcast.state.version is 'Version of the schema; a tool that knows only older ones refuses to touch it.';
comment on column rowcast.state.feed is 'Id of the current feed: the numbering that offsets belong to.';
comment on column rowcast.state.feed_reason is 'Why it began: installed; resumed, after a pause; discarded; rewatched: changes of a table were not captured for a time; trimmed: the log no longer had what the bus lacked; went_back, other_cluster: the database was restored.';
comment on column rowcast.state.feed_began is 'When it began.';
comment on column rowcast.state.first_tick is 'Its base tick. Ticks before it belong to other feeds.';
comment on column rowcast.state.cluster is '<system identifier>:<timeline> at the beginning of the feed. Another one means that the database may have gone back in time.';
comment on column rowcast.state.catalogue is 'Counts the changes of rowcast.watched.';
comment on column rowcast.state.paused_at is 'Since when nothing is captured, by rowcast.pause(); null normally.';
