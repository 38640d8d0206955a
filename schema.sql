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
--      │            ├────────► failed                  no image succeeded
--      └────────────┴──► cancelling ──► cancelled
--
-- A retry leads from completed_with_errors, failed and cancelled back to processing.
--
-- The counters are kept in the same transaction as the images' own states, so that a status
-- costs one row however many images there are.
--
-- Whoever writes the CSVs of a request takes the finish of it: that raises `fence` and sets a
-- lease. The final status is set only where `fence` is still its own, so that one who was stopped
-- meanwhile changes nothing; a retry and a deletion raise `fence` too.
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
    done_before integer not null default 0, -- ended when the newest run began: a retry has few to do
    bytes_in bigint not null default 0,     -- of the images that succeeded
    bytes_out bigint not null default 0,
    errors_by_code jsonb not null default '{}',
    webhook_deliveries jsonb not null default '[]', -- newest first, at most 10 tries of its events,
                                            -- each as the status has it
    fence integer not null default 0,       -- finishes taken and retries so far
    lease_until timestamptz                 -- of the finish, while its CSVs are written
) with (fillfactor = 50);                   -- counters change often: room for HOT updates

-- GET /requests: newest first.
create index if not exists requests_newest on requests (created_at desc, id desc);
-- The sweeper: what is not finished.
create index if not exists requests_unfinished on requests (id) where finished_at is null;
-- Retention: what was finished long ago.
create index if not exists requests_finished on requests (finished_at) where finished_at is not null;

-- What is left of a deleted request: that there was one, until nothing of it is left, and after.
create table if not exists deleted_requests (
    id text primary key,
    owner text,                             -- as it was in requests
    deleted_at timestamptz not null default now(),
    lease_until timestamptz,                -- of the purge, while one is at it
    purged_at timestamptz                   -- its files and rows are gone
);
-- The sweeper: what is still to be purged.
create index if not exists deleted_requests_unpurged on deleted_requests (id)
 where purged_at is null;

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
-- is still running: a worker that was stopped past its lease changes nothing. Its file has the
-- fence in its name until the row of a success names it (output_files.py).
--
-- A lease that runs out tells of a worker that died, not of what it died of. So the first loss
-- counts against every image that it held; from then on an image counts losses only while it is
-- in a decoder (`is_decoding`), after the second one alone, and the fifth one ends it.
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
    losses integer not null default 0,      -- workers that may have died of it
    is_decoding boolean not null default false, -- set only for images with a loss
    repeats integer,                        -- n of an earlier image with the same URL
    reused boolean not null default false,  -- its file was made for another image
    error_code text,
    error_detail text,
    http_status integer,                    -- the origin's answer, where there was one
    bytes_in bigint,
    bytes_out bigint,
    width integer,
    height integer,
    format text,                            -- jpeg, png, webp, gif, avif: tells the file's extension
    quality text,                           -- 1 to 100, lossless, palette, or original
    hint text,                              -- what would have saved more
    sha256 text,                            -- of the output file, hex
    etag text,                              -- the origin's validators, for a later request
    last_modified text,
    source_url text,                        -- where these are from, if not input_url: a redirect led there
    source_sha256 text,                     -- of the bytes that came from there, hex
    reuse_key uuid,                         -- what a later image shares that may take this one's file
    made_at timestamptz,                    -- with reuse_key: the newest one is taken
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
create index if not exists images_repeating on images (request_id, repeats, n)
 where due_at = 'infinity';
-- GET /status/{id}/images?state=failed: few among many.
create index if not exists images_failed on images (request_id, n) where state = 'failed';
-- GET /status/{id}/images?code=http_404: few among many failures.
create index if not exists images_failed_by_code on images (request_id, error_code, n)
 where state = 'failed';
-- Claiming: the newest image that was made of the same URL, for the same owner, in the same way
-- (image_reuse.py). One that repeats another of its request has no key: one row a request.
create index if not exists images_reusable on images (reuse_key, made_at desc)
 where reuse_key is not null;

-- One row per event that a client is told of: the outbox, written in the transaction that sets a
-- request's final status. A request that finishes anew after a retry has another row.
--
--   pending ──claim──► sent ──► delivered   2xx
--      ▲                │ └───► failed      410, or no try is left
--      └── another try, ┘
--          lease expired
--
-- Claiming leaves the state as it is: it raises `fence` and sets a lease by the database's clock.
-- The answer is recorded, and noted in requests.webhook_deliveries, only where `fence` is still the
-- sender's own. The request is locked before its event. A sender that died after
-- the receiver had its event leads to a second delivery with the same id, by which receivers tell.
create table if not exists webhooks (
    id text primary key,                    -- msg_…: the header webhook-id, the same at every try
    request_id text not null references requests (id) on delete cascade,
    url text not null,                      -- without credentials
    host text generated always as (substring(url from '^[^:]+://(\[[^]]+\]|[^/:?#]+)')) stored,
    body text not null,                     -- JSON, as it was when the request finished
    state text not null default 'pending' check (state in (
        'pending',                          -- to be sent from due_at on
        'delivered', 'failed')),
    attempts integer not null default 0,    -- tries that ended, since the event or its replay
    is_replay boolean not null default false, -- somebody asked for it to be sent again
    due_at timestamptz not null default now(),
    lease_until timestamptz,                -- while it is being sent
    fence integer not null default 0,       -- claims, answers and replays so far
    last_status integer,                    -- of the receiver's newest answer, where there was one
    last_error text,                        -- why the newest try was no delivery
    created_at timestamptz not null default now(),
    delivered_at timestamptz
);

-- The webhook of a request's status: its newest.
create index if not exists webhooks_of_request on webhooks (request_id, created_at desc);
-- The sweeper: what is due. Claiming: what has waited longest for a host.
create index if not exists webhooks_pending on webhooks (host, due_at) where state = 'pending';
-- Claiming: how many are being sent to a host.
create index if not exists webhooks_sending on webhooks (host) where lease_until is not null;

-- Uploads that came with an Idempotency-Key, for 24 hours. The row is written first in the upload's
-- own transaction: a second upload with the key waits for that, then gets the first one's answer.
create table if not exists idempotency_keys (
    owner text not null,                    -- digest of the API key; empty without keys
    key text not null,
    fingerprint text not null,              -- SHA-256 of the CSV's bytes and the options
    request_id text not null,               -- which may be deleted by now
    response json,                          -- the 202's body, to the letter; null until the commit
    created_at timestamptz not null default now(),
    primary key (owner, key)
);

-- Those that are over.
create index if not exists idempotency_keys_oldest on idempotency_keys (created_at);

-- What each worker may download from a host at a time: all workers' live slots of a host together
-- are never more than HOST_CONCURRENCY. A worker renews its rows about once a second while it has
-- images of the host and deletes them when it has none; those of a dead worker end with their lease.
-- Written only under an advisory lock that goes by the host. Logged like any table: after a crash
-- of PostgreSQL the workers still download.
create table if not exists host_shares (
    host text not null,                     -- name or address, without the port
    worker text not null,                   -- random, another after each start
    wanted integer not null,                -- the most images of late that waited or were under way
    slots integer not null,                 -- downloads that may be under way until lease_until
    queued_at timestamptz not null,         -- place in the line: who comes first gets the odd slot
    served_at timestamptz,                  -- since when it may begin downloads; null: not now
    lease_until timestamptz not null,
    primary key (host, worker)
) with (fillfactor = 50);

-- Origins that asked for a pause or do not answer; one that is fine has no row, or an old one that
-- is deleted some time. What is in the past does not count. Written under the same lock.
create table if not exists origins (
    authority text primary key,             -- host:port
    failures integer not null,              -- attempts in a row without an answer
    refusals integer not null,              -- pauses in a row without another answer between
    code text,                              -- error code of the last failure or refusal
    paused_until timestamptz not null,      -- by its Retry-After
    open_until timestamptz not null,        -- after too many failures nobody asks it before that
    probe_until timestamptz not null,       -- then one attempt does, by this lease, and others wait
    told_at timestamptz not null default now()
) with (fillfactor = 50);
