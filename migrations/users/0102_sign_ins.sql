-- One row for each sign-in, also when it is refreshed: a refresh token is a number and a keyed hash, and is not stored.
-- The tables sign_ins and refresh_tokens are those of the version before. Processes of that version work on with them; a refresh
-- token in them is moved over when it is presented to a process of this version.

create table user_sign_ins (
    sign_in_id uuid not null,
    user_id uuid not null,
    -- What the client called itself last.
    device text,
    created_at timestamptz not null,
    seen_at timestamptz not null,
    -- Its absolute end, however often it is refreshed.
    ends_at timestamptz not null,
    -- Set if it was ended before its time.
    ended_at timestamptz,
    -- The number of the newest refresh token; -1 while a refresh token of the version before is the newest.
    number bigint not null,
    salt bytea not null,
    rotated_at timestamptz not null,
    -- How often the token before the newest came again since then.
    repeats integer not null,
    repeats_since timestamptz not null,
    constraint user_sign_ins_pkey primary key (sign_in_id),
    constraint user_sign_ins_user_fkey foreign key (user_id) references users,
    constraint user_sign_ins_device_length check (char_length(device) between 1 and 100)
);
create index user_sign_ins_user on user_sign_ins (user_id, seen_at);
create index user_sign_ins_seen_at on user_sign_ins (seen_at);
create index user_sign_ins_ends_at on user_sign_ins (ends_at);
create index user_sign_ins_ended on user_sign_ins (ended_at, sign_in_id) where ended_at is not null;

-- Every live sign-in is listed and can be ended from now on, also before its next refresh.
insert into user_sign_ins
    (sign_in_id, user_id, created_at, seen_at, ends_at, number, salt, rotated_at, repeats, repeats_since)
select sign_in_id, user_id, started_at, expires_at - interval '30 days', now() + interval '90 days', -1,
    uuid_send(gen_random_uuid()), started_at, 0, started_at
from sign_ins join refresh_tokens using (sign_in_id)
where revoked_at is null and used_at is null and expires_at > now()
on conflict do nothing;

-- Signing out everywhere ends those of the version before as well.
create index sign_ins_user on sign_ins (user_id);
