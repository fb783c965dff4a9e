-- A search that its passenger ended although an offer of it had been accepted has a row without a match: no ride comes of it.
alter table served alter column match_id drop not null;
