-- The end of one offer comes before the next one, in the eyes of each party. `end_event` is the match.rejected with which this service
-- ended the offer, as JSON, and `end_shown` says that both parties have the end in their mailboxes.
alter table offers
    add column end_event text,
    add column end_shown boolean not null default false;
create index offers_unshown_driver on offers (driver_id) where end_event is not null and not end_shown;
create index offers_unshown_passenger on offers (passenger_id) where end_event is not null and not end_shown;
create index offers_open_passenger on offers (passenger_id) where state = 'open';
