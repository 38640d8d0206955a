-- The host of an event's receiver, so that none takes up all senders.

alter table webhooks add host text
      generated always as (substring(url from '^[^:]+://(\[[^]]+\]|[^/:?#]+)')) stored;
drop index webhooks_pending;
create index webhooks_pending on webhooks (host, due_at) where state = 'pending';
create index webhooks_sending on webhooks (host) where lease_until is not null;
