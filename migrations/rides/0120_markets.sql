-- The market of a ride and what it costs, fixed when it begins. Null in rides of the version before, which are of the world, in USD.
alter table rides add column market_id text, add column terms json;
alter table payments add column market_id text;
