-- What operators did to rides. A refund is a movement of the ledger too; its row follows from `admin.ride_refunded`, as long as ADMIN_STREAM has it.
create table refunds (
    -- The id of the act.
    refund_id uuid not null,
    ride_id uuid not null,
    payment_id uuid not null,
    amount bigint not null,
    currency text not null,
    -- In the operator's words; null once the account of a party has ended.
    reason text,
    by_operator text not null,
    at timestamptz not null,
    constraint refunds_pkey primary key (refund_id),
    constraint refunds_amount check (amount > 0)
);
create index refunds_ride on refunds (ride_id, at, refund_id);

-- What operators say of rides among themselves. No event has it.
create table ride_notes (
    note_id uuid not null,
    ride_id uuid not null,
    text text not null,
    by_operator text not null,
    at timestamptz not null,
    constraint ride_notes_pkey primary key (note_id),
    constraint ride_notes_length check (char_length(text) between 1 and 1000)
);
create index ride_notes_ride on ride_notes (ride_id, at, note_id);
