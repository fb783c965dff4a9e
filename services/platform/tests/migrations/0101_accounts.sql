-- A table for the conformance suite of the store: unique names, owners, versions.
create table accounts (
    name text not null,
    owner uuid not null,
    version integer not null,
    amount bigint not null,
    constraint accounts_pkey primary key (name),
    constraint accounts_amount_positive check (amount >= 0)
);
