-- The gateway: mailboxes, and what it must know of drivers, searches, offers and rides to judge a command.

-- How far a user's mailbox has come. The row is held until the transaction that posts is over, so no seq is ever
-- visible before a lower one.
create table mailbox_heads (
    user_id uuid not null,
    last_seq bigint not null,
    acked_seq bigint not null default 0,
    constraint mailbox_heads_pkey primary key (user_id),
    constraint mailbox_heads_order check (acked_seq between 0 and last_seq)
);

-- Events that wait for their user, until acknowledged or a day old.
create table mailbox (
    user_id uuid not null,
    seq bigint not null,
    event_id text not null,
    subject text not null,
    time timestamptz not null,
    body text not null,
    posted_at timestamptz not null,
    constraint mailbox_pkey primary key (user_id, seq),
    constraint mailbox_event_key unique (user_id, event_id)
);
create index mailbox_posted_at on mailbox (posted_at);

-- What each driver last said, and whether a socket of theirs is open anywhere.
create table beacons (
    user_id uuid not null,
    active boolean not null,
    connected boolean not null,
    vehicle_type text not null,
    lat double precision not null,
    lng double precision not null,
    published_at timestamptz not null,
    constraint beacons_pkey primary key (user_id),
    constraint beacons_vehicle_type check (vehicle_type in ('car', 'motorcycle', 'van'))
);

-- Every open socket of every pod. A row that its pod no longer touches is that of a dead pod.
create table sockets (
    session_id uuid not null,
    user_id uuid not null,
    pod text not null,
    seen_at timestamptz not null,
    constraint sockets_pkey primary key (session_id)
);
create index sockets_user on sockets (user_id);
create index sockets_seen_at on sockets (seen_at);

-- Open searches: the row goes when the search ends.
create table searches (
    request_id uuid not null,
    user_id uuid not null,
    pickup_lat double precision not null,
    pickup_lng double precision not null,
    dropoff_lat double precision not null,
    dropoff_lng double precision not null,
    vehicle_type text not null,
    began_at timestamptz not null,
    expires_at timestamptz not null,
    constraint searches_pkey primary key (request_id),
    constraint searches_user_key unique (user_id),
    constraint searches_vehicle_type check (vehicle_type in ('car', 'motorcycle', 'van'))
);
create index searches_expires_at on searches (expires_at);

-- Offers to drivers, and what became of each.
create table offers (
    match_id uuid not null,
    request_id uuid not null,
    driver_id uuid not null,
    passenger_id uuid not null,
    pickup_lat double precision not null,
    pickup_lng double precision not null,
    dropoff_lat double precision not null,
    dropoff_lng double precision not null,
    vehicle_type text not null,
    expires_at timestamptz not null,
    state text not null,
    constraint offers_pkey primary key (match_id),
    constraint offers_state check (state in ('open', 'accepted', 'declined', 'closed'))
);
create index offers_expires_at on offers (expires_at);

-- Rides as their events tell; a final one stays a day, so that a late older event does not bring it back.
create table live_rides (
    ride_id uuid not null,
    driver_id uuid not null,
    passenger_id uuid not null,
    version integer not null,
    status text not null,
    changed_at timestamptz not null,
    constraint live_rides_pkey primary key (ride_id)
);
create index live_rides_driver on live_rides (driver_id) where status in ('pickup', 'started', 'arrived');
create index live_rides_passenger on live_rides (passenger_id) where status in ('pickup', 'started', 'arrived');
create index live_rides_final on live_rides (changed_at) where status in ('completed', 'cancelled');
