-- Until when a driver is not offered a request; null: never again, as in the rows of the version before. And how many of its offers the
-- driver missed.
alter table exclusions
    add column until timestamptz,
    add column misses integer not null default 0;
-- The driver cancelled the ride: the two are not brought together again for some minutes.
alter table rides add column driver_cancelled boolean not null default false;
