-- The newest tries of a request's events, for its status.

alter table requests add webhook_deliveries jsonb not null default '[]';
alter table webhooks add is_replay boolean not null default false;
