-- What the parties of a ride said of each other. No event has it and nothing of it is in the audit trail, so a rebuild does not restore it.

create table ratings (
    ride_id uuid not null,
    -- Who rates: `driver` or `passenger`.
    by_party text not null,
    -- Who that is and who is rated; null once the account of one of them has ended: the number stays.
    by_user uuid,
    of_user uuid,
    stars smallint not null,
    comment text,
    at timestamptz not null,
    -- From when on it is in the mean: when both have rated, at the latest when nobody can any more. So no rating shows before the other's is given.
    counts_from timestamptz not null,
    constraint ratings_pkey primary key (ride_id, by_party),
    constraint ratings_party check (by_party in ('driver', 'passenger')),
    constraint ratings_stars check (stars between 1 and 5),
    constraint ratings_comment_length check (char_length(comment) between 1 and 500)
);
-- The newest ratings of a user, without a look at the rows.
create index ratings_of_user on ratings (of_user, counts_from desc, ride_id desc) include (stars) where of_user is not null;
create index ratings_of_user_by_ride on ratings (of_user, ride_id) where of_user is not null;
create index ratings_by_user on ratings (by_user, ride_id) where by_user is not null;
-- Comments are erased after some time.
create index ratings_commented on ratings (at) where comment is not null;
