-- Where and when a live ride is expected to end, so that a search may wait for its driver. Null in rows of processes of the version before.
alter table rides
    add column expected_end_at timestamptz,
    add column expected_end_lat double precision,
    add column expected_end_lng double precision;
