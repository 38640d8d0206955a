-- Uploads that may be sent again: see schema.sql.
create table idempotency_keys (
    owner text not null,
    key text not null,
    fingerprint text not null,
    request_id text not null,
    response json,
    created_at timestamptz not null default now(),
    primary key (owner, key)
);
create index idempotency_keys_oldest on idempotency_keys (created_at);
