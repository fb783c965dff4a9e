-- Codes bound to their askers, and the limits that all processes share. `otps` and `otp_requests` stay for processes of the
-- version before; a later migration drops them.

-- One code that was sent. The code itself is nowhere, only its keyed hash.
create table otp_codes (
    request_id uuid not null,
    phone text not null,
    -- A keyed hash of the address that asked for it.
    asker bytea not null,
    code_hash bytea not null,
    -- Comparisons left: with the request's id, from the asker's address without it, and from other addresses without it.
    tries_by_id smallint not null,
    tries_by_asker smallint not null,
    tries_by_others smallint not null,
    requested_at timestamptz not null,
    expires_at timestamptz not null,
    constraint otp_codes_pkey primary key (request_id),
    constraint otp_codes_tries check (tries_by_id >= 0 and tries_by_asker >= 0 and tries_by_others >= 0)
);
create index otp_codes_phone on otp_codes (phone, requested_at);
create index otp_codes_expires_at on otp_codes (expires_at);

-- The buckets of the limits that all processes share; see platform::limits. A full bucket needs no row.
-- Unlogged: it costs no flush, and after a crash of the server every bucket is full again.
create unlogged table rate_limits (
    -- A keyed hash of the limit's name and of whose bucket it is.
    key bytea not null,
    -- When the bucket is full again.
    tat timestamptz not null,
    constraint rate_limits_pkey primary key (key)
);
create index rate_limits_tat on rate_limits (tat);
