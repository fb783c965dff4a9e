-- no-transaction
-- What is given up, and whose dead letter may not be stored yet: usually nothing.
create index concurrently if not exists zone_inputs_given_up on zone_inputs (id) where given_up is not null;
