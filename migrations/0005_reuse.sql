-- Images of earlier requests are reused, and say what would have saved more: see schema.sql.

alter table images
    add column hint text,
    add column source_url text,
    add column source_sha256 text,
    add column reuse_key uuid,
    add column made_at timestamptz;
create index images_reusable on images (reuse_key, made_at desc) where reuse_key is not null;
