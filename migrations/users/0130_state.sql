-- What a client is shown when it asks for its state: the event of an open offer, and the newest event of a live ride, as JSON. Null in
-- rows of processes of the version before.
alter table offers add column found text;
alter table live_rides
    add column match_id uuid,
    add column event text;
-- The open offer of a driver, and the ride of an accepted one.
create index offers_open on offers (driver_id) where state = 'open';
create index live_rides_match on live_rides (match_id);
