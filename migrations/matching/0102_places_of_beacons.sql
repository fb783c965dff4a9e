-- When users received a beacon's place, and the device of the newest active beacon. Null in rows of processes of the version before.
alter table drivers
    add column located_at timestamptz,
    add column device text;
