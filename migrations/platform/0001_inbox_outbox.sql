-- The two tables of the transactional consumer, in the schema of every service.

-- What was handled: a message that comes again changes nothing.
create table inbox (
    consumer text not null,
    message_id text not null,
    received_at timestamptz not null,
    constraint inbox_pkey primary key (consumer, message_id)
);
create index inbox_received_at on inbox (received_at);

-- What is to be published, written with the rows that it tells about.
create table outbox (
    seq bigint generated always as identity,
    message_id text not null,
    -- The ride, match, user … that it is about: rows of one key are published in order.
    key uuid not null,
    subject text not null,
    -- The JSON as text: hashes are made of these very bytes.
    body text not null,
    traceparent text not null,
    occurred_at timestamptz not null,
    created_at timestamptz not null,
    pod text not null,
    published_at timestamptz,
    constraint outbox_pkey primary key (seq)
);
create index outbox_unpublished on outbox (seq) where published_at is null;
create index outbox_unpublished_key on outbox (key) where published_at is null;
create index outbox_published on outbox (published_at) where published_at is not null;
