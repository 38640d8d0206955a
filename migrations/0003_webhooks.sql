-- The outbox of webhooks.

create table webhooks (
    id text primary key,
    request_id text not null references requests (id) on delete cascade,
    url text not null,
    body text not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempts integer not null default 0,
    due_at timestamptz not null default now(),
    lease_until timestamptz,
    fence integer not null default 0,
    last_status integer,
    last_error text,
    created_at timestamptz not null default now(),
    delivered_at timestamptz
);
create index webhooks_of_request on webhooks (request_id, created_at desc);
create index webhooks_pending on webhooks (due_at) where state = 'pending';
