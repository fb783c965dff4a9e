-- What operators decide about drivers, and what they are shown of offers.

-- The ends of suspensions that have one, and the status after it.
create table suspension_ends (
    user_id uuid not null,
    ends_at timestamptz not null,
    status_after text not null,
    constraint suspension_ends_pkey primary key (user_id),
    constraint suspension_ends_status check (status_after in ('pending', 'approved'))
);
create index suspension_ends_ends_at on suspension_ends (ends_at);

-- With which reason match or rides ended an offer. What users ended itself has `end_event`.
alter table offers add column end_reason text;

-- The papers of drivers, in the order of their kinds.
create table driver_documents (
    user_id uuid not null,
    n smallint not null,
    kind text not null,
    number text,
    -- The last day on which it is valid.
    expires_on date not null,
    constraint driver_documents_pkey primary key (user_id, n),
    constraint driver_documents_kind check (kind in ('licence', 'insurance', 'registration', 'inspection', 'other')),
    constraint driver_documents_number_length check (char_length(number) between 1 and 64)
);
create index driver_documents_expires_on on driver_documents (expires_on);
