-- The market in which a search began: the file of the markets may change, or another process have another one, while it is open. Null in searches that
-- a process of the version before began.
alter table searches add column market_id text;
