-- When a beacon's place was received, and the device of the newest active one. Null in rows of processes of the version before.
alter table beacons
    add column located_at timestamptz,
    add column device text;
-- The device on which a driver accepted an offer, and so the one whose positions are those of the ride.
alter table offers add column device text;
alter table live_rides add column device text;
-- A driver's accepted offers, of which a ride may come.
create index offers_accepted on offers (driver_id, expires_at) where state = 'accepted';
