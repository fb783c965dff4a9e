-- Several processes match beside each other, each in zones of its own (MATCH_ZONES): a zone is a set of cells of the map, has a lease, and
-- owns the requests whose pickup is in it, with their offers and rides. With one zone all is in zone 0, as in rows of the version before.
alter table requests add column zone integer not null default 0;
alter table offers add column zone integer not null default 0;
alter table rides add column zone integer not null default 0;
-- The zones that know the driver, a bit each. Written with more than one zone only.
alter table drivers add column zones bigint not null default 0;

-- By how many zones and which cells the holder divides the map; and, in the row `zones`, which of it is in force: its epoch changes with it.
-- Epochs are never given twice.
alter table lease
    add column zones integer not null default 1,
    add column cell_m integer not null default 0;

-- The live processes that match in zones: each has its share of them.
create table members (
    holder text not null,
    zones integer not null,
    cell_m integer not null,
    expires_at timestamptz not null,
    constraint members_pkey primary key (holder)
);

-- What waits for the owner of a zone, in the order of ids. `elsewhere`: it is about an offer or a ride of another zone.
create table zone_inputs (
    id bigserial not null,
    zone integer not null,
    subject text not null,
    body text not null,
    elsewhere boolean not null,
    stored_at timestamptz not null,
    traceparent text not null,
    constraint zone_inputs_pkey primary key (id)
);
create index zone_inputs_zone on zone_inputs (zone, id);

-- In which zone what a passenger does is handled.
create table passengers (
    passenger_id uuid not null,
    zone integer not null,
    changed_at timestamptz not null,
    constraint passengers_pkey primary key (passenger_id)
);
create index passengers_changed_at on passengers (changed_at);
