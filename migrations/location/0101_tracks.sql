-- The track of each ride. The rows are the truth; every aggregate is made of them.

create table tracks (
    ride_id uuid not null,
    -- Null until ride.started is heard: points may come before it, and so may ride.arrived.
    driver_id uuid,
    started_at timestamptz,
    arrived_at timestamptz,
    -- When this service heard of the arrival; the last points get a moment more.
    arrived_seen_at timestamptz,
    -- Completed or cancelled: nothing more is added, and the points are gone.
    closed_at timestamptz,
    -- Grows by one with each batch that adds points, under the lock of this row.
    version bigint not null default 0,
    -- The version that the last aggregate told of.
    reported_version bigint not null default 0,
    reported_at timestamptz,
    -- The final aggregate is out; none follows it.
    finalised boolean not null default false,
    -- What the last aggregate said.
    distance_m double precision not null default 0,
    points bigint not null default 0,
    last_lat double precision,
    last_lng double precision,
    last_recorded_at timestamptz,
    created_at timestamptz not null,
    constraint tracks_pkey primary key (ride_id)
);
create index tracks_live on tracks (ride_id) where closed_at is null;
create index tracks_created_at on tracks (created_at);

create table track_points (
    ride_id uuid not null,
    -- Who sent it: only the ride's driver's points count, and no stranger's can take their place.
    user_id uuid not null,
    recorded_at timestamptz not null,
    lat double precision not null,
    lng double precision not null,
    accuracy_m double precision,
    received_at timestamptz not null,
    -- The track's version with which it came.
    version bigint not null,
    constraint track_points_pkey primary key (ride_id, user_id, recorded_at),
    constraint track_points_ride_id_fkey foreign key (ride_id) references tracks (ride_id) on delete cascade
);
create index track_points_version on track_points (ride_id, version);
