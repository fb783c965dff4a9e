-- A suspension without an end has a row as well: it stores the status before, so that one with an end that follows does not lose it.
alter table suspension_ends alter column ends_at drop not null;
