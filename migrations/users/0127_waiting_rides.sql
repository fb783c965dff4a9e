-- A ride whose driver waits at the pickup is live.
drop index live_rides_driver;
drop index live_rides_passenger;
create index live_rides_driver on live_rides (driver_id) where status in ('pickup', 'waiting', 'started', 'arrived');
create index live_rides_passenger on live_rides (passenger_id) where status in ('pickup', 'waiting', 'started', 'arrived');
