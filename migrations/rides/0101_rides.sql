-- Rides, the events that made them, the ledger and the payments.

create table rides (
    ride_id uuid not null,
    match_id uuid not null,
    request_id uuid not null,
    driver_id uuid not null,
    passenger_id uuid not null,
    -- That of the newest event; every update names the version that it read.
    version integer not null,
    status text not null,
    pickup_lat double precision not null,
    pickup_lng double precision not null,
    dropoff_lat double precision not null,
    dropoff_lng double precision not null,
    vehicle_type text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    started_at timestamptz,
    arrived_at timestamptz,
    -- `hash` of the newest event.
    last_hash text not null,
    distance_m double precision,
    duration_s double precision,
    fare jsonb,
    platform_fee bigint,
    driver_payout bigint,
    cancelled_by text,
    cancel_reason text,
    cancel_fee bigint,
    pin_failures integer not null default 0,
    pin_failed_at timestamptz,
    constraint rides_pkey primary key (ride_id),
    constraint rides_match unique (match_id),
    constraint rides_status check (status in ('pickup', 'started', 'arrived', 'completed', 'cancelled')),
    constraint rides_two_people check (driver_id <> passenger_id)
);
-- A driver has at most one live ride, and so has a passenger: the database itself refuses a second one.
create unique index rides_live_driver on rides (driver_id) where status not in ('completed', 'cancelled');
create unique index rides_live_passenger on rides (passenger_id) where status not in ('completed', 'cancelled');
create index rides_of_driver on rides (driver_id, created_at desc, ride_id desc);
create index rides_of_passenger on rides (passenger_id, created_at desc, ride_id desc);
create index rides_arrived on rides (arrived_at) where status = 'arrived';

-- Accepted matches that lost to another ride: they stay lost, however often they are delivered.
create table superseded (
    match_id uuid not null,
    at timestamptz not null,
    constraint superseded_pkey primary key (match_id)
);

-- Every event of every ride, for ever, as it was published: what the stream forgets can be told again from here.
create table events (
    ride_id uuid not null,
    version integer not null,
    message_id text not null,
    subject text not null,
    -- Text, not jsonb: the hash is over this very body.
    body text not null,
    hash text not null,
    occurred_at timestamptz not null,
    constraint events_pkey primary key (ride_id, version)
);

-- Double entry: debit is positive, and the amounts of one transaction add up to 0.
create table ledger_entries (
    entry_id uuid not null,
    transaction_id uuid not null,
    ride_id uuid not null,
    kind text not null,
    account text not null,
    amount bigint not null,
    currency text not null,
    at timestamptz not null,
    constraint ledger_entries_pkey primary key (entry_id),
    -- A ride is billed once and captured once, whatever is delivered twice.
    constraint ledger_entries_once unique (ride_id, kind, account),
    constraint ledger_entries_ride foreign key (ride_id) references rides (ride_id)
);
create index ledger_entries_account on ledger_entries (account, at);

create table payments (
    payment_id uuid not null,
    ride_id uuid not null,
    passenger_id uuid not null,
    driver_id uuid not null,
    amount bigint not null,
    currency text not null,
    status text not null,
    -- The provider's, once captured.
    reference text,
    created_at timestamptz not null,
    tried_at timestamptz,
    constraint payments_pkey primary key (payment_id),
    constraint payments_ride unique (ride_id),
    constraint payments_status check (status in ('pending', 'captured', 'refused')),
    constraint payments_ride_exists foreign key (ride_id) references rides (ride_id)
);

-- What a passenger owes because the provider refused: the ride is over for both all the same.
create table debts (
    payment_id uuid not null,
    ride_id uuid not null,
    passenger_id uuid not null,
    amount bigint not null,
    currency text not null,
    at timestamptz not null,
    constraint debts_pkey primary key (payment_id),
    constraint debts_payment foreign key (payment_id) references payments (payment_id)
);
create index debts_passenger on debts (passenger_id);
