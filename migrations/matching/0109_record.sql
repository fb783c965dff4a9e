-- What each step of the engine depended on, in the order of steps: written in the step's transaction, never changed, deleted after
-- MATCH_RECORD_HOURS. An entry of more than 512 KiB is several rows.
create table recorded_steps (
  epoch bigint not null,
  number bigint not null,
  part integer not null,
  parts integer not null,
  kind text not null,
  recorded_at timestamptz not null,
  rules_version bigint not null,
  bytes integer not null,
  data bytea not null,
  constraint recorded_steps_pkey primary key (epoch, number, part)
);
-- Packed already: compressing it again costs time and saves nothing.
alter table recorded_steps alter column data set storage external;
create index recorded_steps_recorded_at on recorded_steps (recorded_at) include (bytes);
create index recorded_steps_snapshots on recorded_steps (recorded_at) where kind = 'snapshot';

-- The rules of those steps, by version, as text.
create table recorded_rules (
  version bigint not null,
  rules text not null,
  used_at timestamptz not null,
  constraint recorded_rules_pkey primary key (version)
);
