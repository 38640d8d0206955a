-- Finishes are leased and fenced like images, requests can be retried and deleted.

alter table requests
    add column done_before integer not null default 0,
    add column fence integer not null default 0,
    add column lease_until timestamptz;
create index requests_finished on requests (finished_at) where finished_at is not null;

create table deleted_requests (
    id text primary key,
    owner text,
    deleted_at timestamptz not null default now(),
    lease_until timestamptz,
    purged_at timestamptz
);
create index deleted_requests_unpurged on deleted_requests (id) where purged_at is null;

alter table images
    add column losses integer not null default 0,
    add column is_decoding boolean not null default false;

drop index images_repeating;
create index images_repeating on images (request_id, repeats, n) where due_at = 'infinity';
