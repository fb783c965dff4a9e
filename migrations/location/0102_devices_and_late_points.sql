-- Points of several devices of a driver, each with the times of its own clock; and points that come after the final aggregate.

alter table track_points
    -- The installation of the app; empty for the unnamed one and for a foreign producer.
    add column device text not null default '',
    -- Whether it accepted the ride. A process of the version before knows one device only.
    add column ride_device boolean not null default true,
    -- The device's own clock; null from a foreign producer, and from the version before.
    add column device_at timestamptz,
    add column sent_at timestamptz,
    add column speed_mps double precision;

-- What makes two points one: the device's own time, because the corrected one changes with what is known of its clock.
alter table track_points drop constraint track_points_pkey;
create unique index track_points_key on track_points (ride_id, user_id, device, coalesce(device_at, recorded_at));

alter table tracks
    -- Where the passenger wanted to get in and out; null from the version before.
    add column pickup_lat double precision,
    add column pickup_lng double precision,
    add column dropoff_lat double precision,
    add column dropoff_lng double precision,
    -- The distance with the points that came after the final aggregate; null if none came.
    add column late_distance_m double precision;

-- The ride to which a late point belongs.
create index tracks_driver_id on tracks (driver_id, started_at) where started_at is not null;
create index tracks_late on tracks (ride_id) where finalised and version > reported_version;
-- Points are deleted a day after the end of their ride.
create index tracks_closed_at on tracks (closed_at) where closed_at is not null;
