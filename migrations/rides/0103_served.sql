-- Requests that became a ride: another match of the same request, accepted before and delivered after that ride was over,
-- becomes none.
create table served (
    request_id uuid not null,
    match_id uuid not null,
    constraint served_pkey primary key (request_id)
);
