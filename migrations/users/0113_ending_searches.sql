-- When a passenger's end of a search was passed on to rides, which decides whether the search is a ride already.
alter table searches add column ending_at timestamptz;
