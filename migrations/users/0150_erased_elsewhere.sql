-- When rides had erased what it stores of a person whose account has ended. It is asked until it answers.
alter table users add column erased_elsewhere_at timestamptz;
create index users_to_erase on users (deleted_at) where deleted_at is not null and erased_elsewhere_at is null;
