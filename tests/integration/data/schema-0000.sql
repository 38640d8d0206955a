-- The database as of the first version, before any migration: what older ones are migrated from.

-- The whole database, as of the newest migration; applying it again changes nothing.
--
-- A fresh database gets this file. One that is older gets the numbered files of migrations/
-- that it lacks, in order, under an advisory lock (database_schema.py). Whoever changes a table
-- changes it here and adds the migration that brings an older database to the same shape.
--
-- The job engine's own tables (procrastinate_*) come from its package. They wake workers and
-- spread work; what is true of a request or an image stands here only.

-- Which migrations this database has had.
create table if not exists schema_migrations (
    name text primary key,                  -- file name, or procrastinate:<file name>
    applied_at timestamptz not null default now()
);

-- One row per upload.
--
--   pending ──► processing ──► completed               every image succeeded
--      │            │     └──► completed_with_errors   some failed
--      │            └────────► failed                  no image succeeded
--      └──► cancelling ──────► cancelled
--
-- The counters are kept in the same transaction as the images' own states, so that a status
-- costs one row however many images there are.
create table if not exists requests (
    id text primary key,                    -- 32 hex digits of a random UUID
    status text not null default 'pending' check (status in (
        'pending',                          -- accepted, no worker has begun
        'processing',                       -- images are being worked on
        'completed', 'completed_with_errors', 'failed',
        'cancelling',                       -- no new image is begun, those under way end
        'cancelled')),
    owner text,                             -- digest of the key that uploaded it; null without keys
    options jsonb not null,                 -- every option of the upload with its value
    columns text[] not null,                -- the input's header, as it was
    base_url text not null,                 -- of the output CSV's URLs: PUBLIC_URL at the upload
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,                -- set together with the final status: the CSVs are there
    products integer not null default 0,
    images integer not null default 0,
    succeeded integer not null default 0,
    failed integer not null default 0,
    cancelled integer not null default 0,
    bytes_in bigint not null default 0,     -- of the images that succeeded
    bytes_out bigint not null default 0,
    errors_by_code jsonb not null default '{}'
) with (fillfactor = 50);                   -- counters change often: room for HOT updates

-- GET /requests: newest first.
create index if not exists requests_newest on requests (created_at desc, id desc);
-- The sweeper: what is not finished.
create index if not exists requests_unfinished on requests (id) where finished_at is null;

-- One row per product, in input order. The cells are as they were in the input.
-- No foreign key here nor on images: a million look-ups of one parent per upload would tell
-- nothing, as the rows are only ever written in the transaction that writes their request.
create table if not exists image_links (
    request_id text not null,
    row integer not null,                   -- 1, 2, … in input order
    line integer not null,                  -- where the row begins in the uploaded file
    serial_number text not null,
    product_name text not null,
    input_image_urls text not null,
    output_image_urls text,                 -- as in the output CSV; null until that is written
    other_cells text[],                     -- further columns in input order; null if there are none
    primary key (request_id, row)
);

-- One row per image URL, in input order: the queue and the truth.
--
--   pending ──claim──► running ──► succeeded
--      ▲                  │ └────► failed
--      │                  │
--      └── another try, ──┘        pending, running ──► cancelled
--          lease expired
--
-- A worker claims pending images (FOR UPDATE SKIP LOCKED), which raises `fence` and sets a lease
-- by the database's clock. It writes a result only where `fence` is still its own and the state
-- is still running: a worker that was stopped past its lease changes nothing.
create table if not exists images (
    request_id text not null,
    n integer not null,                     -- 1, 2, … over the whole CSV: the output's number
    row integer not null,                   -- its product: image_links.row
    position integer not null,              -- 1, 2, … in the product's cell
    input_url text not null,
    state text not null default 'pending' check (state in (
        'pending',                          -- to be claimed from due_at on
        'running',                          -- claimed, until lease_until
        'succeeded', 'failed', 'cancelled')),
    due_at timestamptz not null default '-infinity', -- infinity: waits for the image it repeats
    lease_until timestamptz,                -- while running
    fence integer not null default 0,       -- claims so far
    attempts integer not null default 0,    -- tries that ended, good or bad
    repeats integer,                        -- n of an earlier image with the same URL
    reused boolean not null default false,  -- stored without a download of its own
    error_code text,
    error_detail text,
    http_status integer,                    -- the origin's answer, where there was one
    bytes_in bigint,
    bytes_out bigint,
    width integer,
    height integer,
    format text,                            -- jpeg, png, webp, gif, avif: tells the file's extension
    quality text,                           -- 1 to 100, lossless, palette, or original
    sha256 text,                            -- of the output file, hex
    etag text,                              -- the origin's validators, for a later request
    last_modified text,
    primary key (request_id, n)
) with (
    fillfactor = 85,                        -- each row is rewritten at least twice
    autovacuum_vacuum_scale_factor = 0,     -- a queue leaves dead rows at its head all the time,
    autovacuum_vacuum_threshold = 50000,    -- however many rows of finished requests there are
    autovacuum_analyze_scale_factor = 0.05
);

-- Claiming: the first due images of one request.
create index if not exists images_pending on images (request_id, due_at, n) where state = 'pending';
-- The sweeper: images whose lease is over.
create index if not exists images_running on images (lease_until) where state = 'running';
-- Images that wait for the one they repeat.
create index if not exists images_repeating on images (request_id, repeats) where due_at = 'infinity';
-- GET /status/{id}/images?state=failed: few among many.
create index if not exists images_failed on images (request_id, n) where state = 'failed';
