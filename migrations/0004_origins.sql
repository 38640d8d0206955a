create table host_shares (
    host text not null,
    worker text not null,
    wanted integer not null,
    slots integer not null,
    queued_at timestamptz not null,
    served_at timestamptz,
    lease_until timestamptz not null,
    primary key (host, worker)
) with (fillfactor = 50);

create table origins (
    authority text primary key,
    failures integer not null,
    refusals integer not null,
    code text,
    paused_until timestamptz not null,
    open_until timestamptz not null,
    probe_until timestamptz not null,
    told_at timestamptz not null default now()
) with (fillfactor = 50);
