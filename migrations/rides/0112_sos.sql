-- Calls for help. One for each party and ride, however often it is repeated.
create table sos_alerts (
    sos_id uuid not null,
    ride_id uuid not null,
    user_id uuid not null,
    -- How often it was raised: again after an operator had closed it.
    round integer not null,
    raised_at timestamptz not null,
    note text,
    -- Where whoever raised it says they are, and when they said so.
    lat double precision,
    lng double precision,
    located_at timestamptz,
    -- Of this round at the operators' sink: when it was accepted, the tries so far, when the next one is due, when it was given up.
    accepted_at timestamptz,
    tries integer not null,
    next_try_at timestamptz not null,
    dead_at timestamptz,
    -- When positions were last looked at, and the time of the newest one that the sink has.
    positions_at timestamptz not null,
    position_of timestamptz,
    closed_at timestamptz,
    close_reason text,
    constraint sos_alerts_pkey primary key (sos_id),
    constraint sos_alerts_once unique (ride_id, user_id),
    constraint sos_alerts_note_length check (char_length(note) between 1 and 500)
);
create index sos_alerts_due on sos_alerts (next_try_at) where accepted_at is null and dead_at is null and closed_at is null;
create index sos_alerts_open on sos_alerts (positions_at) where closed_at is null;
create index sos_alerts_user on sos_alerts (user_id, sos_id);
create index sos_alerts_closed on sos_alerts (closed_at) where closed_at is not null;
