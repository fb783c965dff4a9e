-- Push, for when no socket is open. `push_devices` has where a user's notifications go; `pushes` is the outbox of them: a row for an event
-- and a device, written with the mailbox entry, and deleted when a socket took the event, when it was sent, or when it is too late.

create table push_devices (
    device_id uuid not null,
    user_id uuid not null,
    platform text not null,
    token text not null,
    -- Of the platform and what names the device in the token: a phone that is handed over is one device.
    token_hash bytea not null,
    -- The sign-in that registered it, and ends with it. Null for an access token without a sign-in.
    sign_in_id uuid,
    created_at timestamptz not null,
    constraint push_devices_pkey primary key (device_id),
    constraint push_devices_token_key unique (token_hash),
    constraint push_devices_platform check (platform in ('fcm', 'apns', 'webpush', 'webhook')),
    constraint push_devices_token_length check (char_length(token) between 1 and 4096)
);
create index push_devices_user on push_devices (user_id, created_at);

create table pushes (
    user_id uuid not null,
    seq bigint not null,
    device_id uuid not null,
    event_id text not null,
    -- What the device receives, as JSON.
    message text not null,
    urgent boolean not null,
    -- A later notification of the same topic takes the place of an earlier one.
    topic uuid not null,
    expires_at timestamptz not null,
    -- When it is to be sent. Who claims it moves this to the end of the claim.
    due_at timestamptz not null,
    -- How often it was claimed.
    tries integer not null,
    constraint pushes_pkey primary key (user_id, seq, device_id)
);
create index pushes_due on pushes (due_at);
