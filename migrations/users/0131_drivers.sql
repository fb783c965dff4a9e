-- Plates of any script, compared without case, spaces and hyphens; what the vehicle is; and whether its driver may drive.

-- `plate_key` is the plate as it is compared. It is null in rows of processes of the version before, whose drivers have plates of their
-- own as they are written (`drivers_plate_key`), and for whoever had the same plate as another driver, written in another way.
alter table drivers
    add column plate_key text,
    add column make text,
    add column model text,
    add column color text,
    add column status text not null default 'approved',
    add constraint drivers_plate_key_key unique (plate_key),
    add constraint drivers_status check (status in ('pending', 'approved', 'suspended'));
update drivers set plate_key = first.key from (
    select user_id, key, row_number() over (partition by key order by registered_at, user_id) as n
    from (select user_id, registered_at, upper(translate(plate, ' -', '')) as key from drivers) as keys) as first
where first.user_id = drivers.user_id and first.n = 1;
