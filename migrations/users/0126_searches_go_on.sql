-- When the passenger of a search was told that its end is near.
alter table searches add column end_announced_at timestamptz;
