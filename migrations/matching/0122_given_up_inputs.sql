-- What the owner of a zone cannot handle becomes a dead letter of the message that it came with. `given_up` is the reason: such a row is
-- never handled again, and is deleted once its letter is stored.
alter table zone_inputs
    add column message_id text not null default '',
    add column sequence bigint not null default 0,
    add column given_up text;
