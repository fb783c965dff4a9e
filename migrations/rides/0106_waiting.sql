-- The driver waits at the pickup.
alter table rides add column waiting_at timestamptz;
alter table rides drop constraint rides_status;
alter table rides add constraint rides_status
    check (status in ('pickup', 'waiting', 'started', 'arrived', 'completed', 'cancelled'));
