-- What the match engine caches. One process writes at a time (see lease).

-- The newest beacon of each driver.
create table drivers (
    user_id uuid not null,
    active boolean not null,
    vehicle_type text not null,
    lat double precision not null,
    lng double precision not null,
    -- When it happened, by whoever sent it; an older one changes nothing.
    recorded_at timestamptz not null,
    -- When the stream stored it.
    seen_at timestamptz not null,
    constraint drivers_pkey primary key (user_id),
    constraint drivers_vehicle_type check (vehicle_type in ('car', 'motorcycle', 'van'))
) with (fillfactor = 80);

-- Passengers' searches; ended ones stay a while, so that a late repeat does not open them again.
create table requests (
    request_id uuid not null,
    passenger_id uuid not null,
    pickup_lat double precision not null,
    pickup_lng double precision not null,
    dropoff_lat double precision not null,
    dropoff_lng double precision not null,
    vehicle_type text not null,
    opened_at timestamptz not null,
    changed_at timestamptz not null,
    ended_at timestamptz,
    constraint requests_pkey primary key (request_id),
    constraint requests_vehicle_type check (vehicle_type in ('car', 'motorcycle', 'van'))
);
create unique index requests_one_live_a_passenger on requests (passenger_id) where ended_at is null;
create index requests_ended_at on requests (ended_at) where ended_at is not null;

-- Drivers who declined a request or let its offer expire.
create table exclusions (
    request_id uuid not null,
    driver_id uuid not null,
    constraint exclusions_pkey primary key (request_id, driver_id),
    constraint exclusions_request foreign key (request_id) references requests (request_id) on delete cascade
);

-- Offers; a live one holds both. Ended ones stay a while, so that a late answer finds how it ended.
create table offers (
    match_id uuid not null,
    request_id uuid not null,
    driver_id uuid not null,
    passenger_id uuid not null,
    found_at timestamptz not null,
    expires_at timestamptz not null,
    accepted_at timestamptz,
    ended_at timestamptz,
    outcome text,
    constraint offers_pkey primary key (match_id),
    constraint offers_outcome check (
        outcome in ('declined', 'expired', 'cancelled', 'superseded', 'ridden', 'released')
        and (outcome is null) = (ended_at is null)
    )
);
create unique index offers_one_live_a_driver on offers (driver_id) where ended_at is null;
create unique index offers_one_live_a_passenger on offers (passenger_id) where ended_at is null;
create index offers_ended_at on offers (ended_at) where ended_at is not null;

-- Rides; a live one locks both. Ended ones stay 8 days, so that a late ride.pickup locks nobody. No unique index: two
-- rides of one person can be live here for a moment, when the end of the first comes late; rides refuses it for good.
create table rides (
    ride_id uuid not null,
    match_id uuid not null,
    driver_id uuid not null,
    passenger_id uuid not null,
    began_at timestamptz not null,
    ended_at timestamptz,
    constraint rides_pkey primary key (ride_id)
);
create index rides_live on rides (ride_id) where ended_at is null;
create index rides_ended_at on rides (ended_at) where ended_at is not null;

-- Who is the one active process. The epoch is part of a unique constraint so that `for key share`, which every
-- transaction of the engine takes, stands in the way of a take-over and not of a renewal.
create table lease (
    name text not null,
    epoch bigint not null,
    holder text not null,
    expires_at timestamptz not null,
    constraint lease_pkey primary key (name),
    constraint lease_epoch unique (name, epoch)
);
