-- Accounts that have ended. The id stays, because rides, the ledger and the audit trail name people by it; what belongs to the person is
-- erased, and the phone is free for a new account.

alter table users
    alter column phone drop not null,
    add column deleted_at timestamptz,
    add constraint users_deleted check ((deleted_at is null) = (phone is not null)),
    add constraint users_deleted_name check (deleted_at is null or name is null);

-- What arrives late for an account that has ended is erased as well.
create index users_deleted_at on users (deleted_at) where deleted_at is not null;
