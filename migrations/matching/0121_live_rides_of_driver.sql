-- no-transaction
-- Whether another zone has a live ride of a driver whom a zone offers.
create index concurrently if not exists rides_live_of_driver on rides (driver_id) where ended_at is null;
