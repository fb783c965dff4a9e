-- What a restart begins with: each driver's newest beacon, and a place that is written from time to time.
create table drivers (
    user_id uuid not null,
    active boolean not null,
    vehicle_type text not null,
    beacon_at timestamptz not null,
    -- The device of the newest active beacon.
    beacon_device text,
    lat double precision not null,
    lng double precision not null,
    -- The device that measured the place, by its own clock, by the server's, and when it was received.
    device text not null,
    device_at timestamptz not null,
    recorded_at timestamptz not null,
    received_at timestamptz not null,
    -- The place came with a beacon.
    is_beacon boolean not null,
    -- When a beacon last changed the row.
    changed_at timestamptz not null,
    constraint drivers_pkey primary key (user_id),
    constraint drivers_vehicle_type check (vehicle_type in ('car', 'motorcycle', 'van'))
) with (fillfactor = 70);
create index drivers_on_duty on drivers (user_id) where active;
create index drivers_changed_at on drivers (changed_at);
