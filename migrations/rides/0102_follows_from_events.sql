-- What stands in `rides`, `events`, `ledger_entries` and `payments` follows from the events alone, so that it can be made
-- again from RIDE_STREAM, and the stream again from `events`.

-- Nobody reads it, and no event of a ride carries it.
alter table rides drop column request_id;

-- Wrong PINs are no part of what happened to a ride: they guard the next try, and are forgotten once it has started.
create table pin_tries (
    ride_id uuid not null,
    failures integer not null,
    failed_at timestamptz not null,
    constraint pin_tries_pkey primary key (ride_id)
);
insert into pin_tries (ride_id, failures, failed_at)
    select ride_id, pin_failures, pin_failed_at from rides
    where pin_failures > 0 and pin_failed_at is not null and status = 'pickup';
alter table rides drop column pin_failures, drop column pin_failed_at;

-- The one header that does not follow from the body; empty for what was published before this column was.
alter table events add column traceparent text not null default '';
update events set traceparent = outbox.traceparent from outbox where outbox.message_id = events.message_id;
-- In the order in which they are published again.
create index events_occurred on events (occurred_at, ride_id, version);
