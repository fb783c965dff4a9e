-- When a search ends by its time, as users says. Null in rows of processes of the version before: then it is computed from the settings.
alter table requests
    add column expires_at timestamptz;
