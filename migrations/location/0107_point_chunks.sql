-- Points in chunks: a row for each point cost two writes a point, its deletion included. A transaction now adds all points of a ride
-- that have come for some seconds to the ride's newest chunk, or begins the next one.

create table track_chunks (
    ride_id uuid not null,
    -- Who sent them: only the ride's driver's points count.
    user_id uuid not null,
    -- 1, 2, 3 … of this user.
    nth integer not null,
    -- The track's version with which the newest of them came. A track's version is this or that of its own row, whichever is greater.
    version bigint not null,
    -- One element a point, in the order in which they came. What they mean is written in 0102.
    device text[] not null,
    ride_device boolean[] not null,
    device_at timestamptz[] not null,
    sent_at timestamptz[] not null,
    received_at timestamptz[] not null,
    recorded_at timestamptz[] not null,
    lat double precision[] not null,
    lng double precision[] not null,
    accuracy_m double precision[] not null,
    speed_mps double precision[] not null,
    versions bigint[] not null,
    constraint track_chunks_pkey primary key (ride_id, user_id, nth),
    constraint track_chunks_ride_id_fkey foreign key (ride_id) references tracks (ride_id) on delete cascade
-- Of 32 points, a chunk has some 3 KB: it stays in one piece, and grows in its own page.
) with (fillfactor = 50, toast_tuple_target = 4096);

-- Processes of the version before run beside this one. They find all points, and write their own, where they always did.
alter table track_points rename to track_point_rows;
alter table track_point_rows rename constraint track_points_ride_id_fkey to track_point_rows_ride_id_fkey;

create view track_points as
select t.ride_id, p.user_id, p.recorded_at, p.lat, p.lng, p.accuracy_m, p.received_at, p.version, p.device, p.ride_device,
    p.device_at, p.sent_at, p.speed_mps
from tracks t cross join lateral (
    select r.user_id, r.recorded_at, r.lat, r.lng, r.accuracy_m, r.received_at, r.version, r.device, r.ride_device, r.device_at,
        r.sent_at, r.speed_mps
    from track_point_rows r where r.ride_id = t.ride_id
    union all
    select c.user_id, e.recorded_at, e.lat, e.lng, e.accuracy_m, e.received_at, e.version, e.device, e.ride_device, e.device_at,
        e.sent_at, e.speed_mps
    from track_chunks c cross join lateral unnest(c.device, c.ride_device, c.device_at, c.sent_at, c.received_at, c.recorded_at,
        c.lat, c.lng, c.accuracy_m, c.speed_mps, c.versions) as e (device, ride_device, device_at, sent_at, received_at,
        recorded_at, lat, lng, accuracy_m, speed_mps, version)
    where c.ride_id = t.ride_id
) p;

create function track_points_write() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        delete from track_point_rows r where r.ride_id = old.ride_id and r.user_id = old.user_id and r.device = old.device
            and coalesce(r.device_at, r.recorded_at) = coalesce(old.device_at, old.recorded_at);
        return old;
    end if;
    insert into track_point_rows (ride_id, user_id, recorded_at, lat, lng, accuracy_m, received_at, version, device,
        ride_device, device_at, sent_at, speed_mps)
    values (new.ride_id, new.user_id, new.recorded_at, new.lat, new.lng, new.accuracy_m, new.received_at, new.version,
        coalesce(new.device, ''), coalesce(new.ride_device, true), new.device_at, new.sent_at, new.speed_mps)
    on conflict do nothing;
    if not found then
        return null;
    end if;
    return new;
end
$$;
create trigger track_points_write instead of insert or delete on track_points
    for each row execute function track_points_write();

-- Who might use the table may use what has taken its place, at once.
do $$
declare
    granted record;
begin
    for granted in
        select distinct grantee, privilege_type from information_schema.role_table_grants
        where table_schema = current_schema() and table_name = 'track_point_rows'
            and privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE') and grantee not in (current_user, 'PUBLIC')
    loop
        execute format('grant %s on track_points, track_chunks to %I', granted.privilege_type, granted.grantee);
    end loop;
end
$$;
