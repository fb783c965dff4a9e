-- Which pods are there, and who is connected where: one row a pod and user. No ping touches it.

-- A row for each start of a pod. The pod touches it; what is not touched is that of a dead pod. Once `ended`, it stays so: a pod that
-- stood still for so long takes a new incarnation.
create table pods (
    incarnation uuid not null,
    pod text not null,
    seen_at timestamptz not null,
    ended boolean not null default false,
    constraint pods_pkey primary key (incarnation)
);
create index pods_seen_at on pods (seen_at);
create index pods_ended on pods (incarnation) where ended;

-- Until now a row of `sockets` was a socket, which its pod touched. Rows with an incarnation are one for each pod and user: `session_id`
-- is their own id, `open` is how many sockets of the user are open there, and `recount` asks the pod to look whether they are too many.
-- Their `seen_at` is a day ahead, so that a process of the version before does not take them for those of a dead pod.
alter table sockets
    add column incarnation uuid,
    add column open integer,
    add column recount boolean not null default false,
    add constraint sockets_incarnation_fkey foreign key (incarnation) references pods (incarnation);
create unique index sockets_incarnation_user on sockets (incarnation, user_id) where incarnation is not null;
create index sockets_recount on sockets (incarnation) where recount;
