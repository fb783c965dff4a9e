-- What processes that record spans store; the others write neither.

-- The span that the publish of a row follows from.
alter table outbox add column parent_span text;

-- In which trace a search (and its passenger), an offer or a ride is.
create table traces (
    subject uuid not null,
    traceparent text not null,
    changed_at timestamptz not null,
    constraint traces_pkey primary key (subject)
);
create index traces_changed_at on traces (changed_at);
