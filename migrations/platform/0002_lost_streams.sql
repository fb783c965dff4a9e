-- What each subject of the outbox is published to: a stream that was lost and made again was made at another time, and what
-- the lost one held is published again.
create table outbox_subjects (
    subject text not null,
    -- When the stream was made; of one that keeps only what somebody waits for, the newest of it and its consumers.
    made timestamptz not null,
    -- Rows after the one and up to the other are to be published again.
    again_after bigint not null default 0,
    again_until bigint not null default 0,
    -- When the newest of them are to be published once more: until then the stream may take them for repeats.
    later timestamptz,
    constraint outbox_subjects_pkey primary key (subject)
);
