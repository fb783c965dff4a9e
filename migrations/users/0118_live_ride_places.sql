-- Where a live ride begins and ends, so that its passenger is shown when the vehicle is there. Null in rows of processes of the
-- version before, until the next event of their ride.
alter table live_rides
    add column pickup_lat double precision,
    add column pickup_lng double precision,
    add column dropoff_lat double precision,
    add column dropoff_lng double precision;
