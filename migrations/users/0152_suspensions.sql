-- Phones and plates of drivers who deleted their accounts, or changed either, while they were suspended: only keyed hashes, for a limited time.
-- So nobody comes back as approved by a new account.
create table suspensions (
    hash bytea not null,
    ends_at timestamptz not null,
    constraint suspensions_pkey primary key (hash)
);
create index suspensions_ends_at on suspensions (ends_at);
