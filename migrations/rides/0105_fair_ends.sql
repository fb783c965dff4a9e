-- Why a ride was cancelled, as a code and in words beside it, and what the fee consists of. Null in rides that were cancelled before.
alter table rides
    add column cancel_code text,
    add column cancel_note text,
    add column cancel_fare jsonb,
    add column cancel_distance_m double precision,
    add column cancel_duration_s double precision;
-- The search that goes on after its driver's cancellation.
alter table rides add column cancel_continues uuid;
create index served_match on served (match_id);
