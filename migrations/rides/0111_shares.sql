-- Links by which a party of a ride shows it to others. The token of a link is nowhere, only its keyed hash.
create table shares (
    share_id uuid not null,
    ride_id uuid not null,
    user_id uuid not null,
    token_hash bytea not null,
    created_at timestamptz not null,
    -- With the ride, and then at the latest.
    expires_at timestamptz not null,
    revoked_at timestamptz,
    constraint shares_pkey primary key (share_id),
    constraint shares_token unique (token_hash)
);
create index shares_ride on shares (ride_id, user_id, share_id);
create index shares_user on shares (user_id, share_id);
create index shares_expires_at on shares (expires_at);
