-- Changes of phone numbers that wait for both codes, and for a while those that are done, so that a repeat is answered the same.
create table phone_changes (
    -- One for each user: a new request takes the place of the last one.
    user_id uuid not null,
    change_id uuid not null,
    old_phone text not null,
    new_phone text not null,
    -- Keyed hashes of the codes; no sign-in code has such a hash, nor the other way round.
    old_hash bytea not null,
    new_hash bytea not null,
    tries smallint not null,
    expires_at timestamptz not null,
    done_at timestamptz,
    constraint phone_changes_pkey primary key (user_id),
    constraint phone_changes_user_fkey foreign key (user_id) references users,
    constraint phone_changes_tries check (tries >= 0)
);
create index phone_changes_expires_at on phone_changes (expires_at);
