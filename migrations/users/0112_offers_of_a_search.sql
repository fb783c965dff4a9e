-- The end of a search closes its offers in the same transaction.
create index offers_request on offers (request_id);
