-- The market in which a search began, as user.finder says. Null in requests that a process of the version before stored: they are in the market
-- that has their pickup.
alter table requests add column market_id text;
