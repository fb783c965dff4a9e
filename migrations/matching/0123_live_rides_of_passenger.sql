-- no-transaction
-- Whether another zone has a live ride of a passenger who waits.
create index concurrently if not exists rides_live_of_passenger on rides (passenger_id) where ended_at is null;
