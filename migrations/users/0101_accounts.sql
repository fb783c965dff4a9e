-- Accounts and sign-in.

create table users (
    user_id uuid not null,
    -- E.164.
    phone text not null,
    name text,
    created_at timestamptz not null,
    constraint users_pkey primary key (user_id),
    constraint users_phone_key unique (phone),
    constraint users_name_length check (char_length(name) between 1 and 100)
);

-- A user who drives too.
create table drivers (
    user_id uuid not null,
    vehicle_type text not null,
    plate text not null,
    registered_at timestamptz not null,
    constraint drivers_pkey primary key (user_id),
    constraint drivers_user_fkey foreign key (user_id) references users,
    constraint drivers_plate_key unique (plate),
    constraint drivers_vehicle_type check (vehicle_type in ('car', 'motorcycle', 'van'))
);

-- The one live code of a phone. The code itself is nowhere, only its keyed hash.
create table otps (
    phone text not null,
    code_hash bytea not null,
    tries_left smallint not null,
    expires_at timestamptz not null,
    constraint otps_pkey primary key (phone),
    constraint otps_tries_left check (tries_left >= 0)
);
create index otps_expires_at on otps (expires_at);

-- When codes were asked for: at most so many an hour.
create table otp_requests (
    otp_request_id uuid not null,
    phone text not null,
    requested_at timestamptz not null,
    constraint otp_requests_pkey primary key (otp_request_id)
);
create index otp_requests_phone on otp_requests (phone, requested_at);
create index otp_requests_requested_at on otp_requests (requested_at);

-- One sign-in of one user on one device: a chain of refresh tokens, each of which works once.
create table sign_ins (
    sign_in_id uuid not null,
    user_id uuid not null,
    started_at timestamptz not null,
    revoked_at timestamptz,
    constraint sign_ins_pkey primary key (sign_in_id),
    constraint sign_ins_user_fkey foreign key (user_id) references users
);

create table refresh_tokens (
    token_hash bytea not null,
    sign_in_id uuid not null,
    expires_at timestamptz not null,
    -- A token that is used and comes again was stolen, or its thief was first: its sign-in ends.
    used_at timestamptz,
    constraint refresh_tokens_pkey primary key (token_hash),
    constraint refresh_tokens_sign_in_fkey foreign key (sign_in_id) references sign_ins
);
create index refresh_tokens_sign_in on refresh_tokens (sign_in_id);
create index refresh_tokens_expires_at on refresh_tokens (expires_at);
