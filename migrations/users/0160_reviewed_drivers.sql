-- Whether an operator has approved the driver: some markets ask for that, also of a driver who was approved by registering.
alter table drivers add column reviewed boolean not null default false;
