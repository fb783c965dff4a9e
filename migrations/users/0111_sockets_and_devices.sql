-- Sockets of one user over all pods, and the devices of a user, each with its own mark in the mailbox.

-- `received_at` is when the client last sent anything; null in rows of processes of the version before. A displaced socket is
-- one that a newer socket of its user took the place of: its pod closes it.
alter table sockets
    add column received_at timestamptz,
    add column displaced boolean not null default false;

-- The devices on which a user reads the mailbox. The empty name stands for all sockets that name no device.
create table mailbox_devices (
    user_id uuid not null,
    device text not null,
    acked_seq bigint not null,
    seen_at timestamptz not null,
    constraint mailbox_devices_pkey primary key (user_id, device)
);
create index mailbox_devices_seen_at on mailbox_devices (seen_at);
