"""The statements of the work on images: claim, renew, record outcomes, give back, cancel.

The rows of `images` are the queue and the truth (`schema.sql` draws their states). Every
function takes the cursor of an open transaction and opens none; waking workers is
`job_queue`'s, doing the work `image_processor`'s, requests as a whole `request_queue`'s.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from database_helper import Cursor
    from image_reuse import EarlierImage


Attempt = tuple[str, int, int]  # request id, n, fence

# A state of images that are found by their key, in words that the indexes of all such images don't
# answer: these have an entry of every change since the last vacuum, and look short to a planner
# that saw none when the statistics were made.
_IS_RUNNING: Final = "i.state is not distinct from 'running'"
_IS_PENDING: Final = "state is not distinct from 'pending'"

REPEATS_AT_A_TIME: Final = 100  # of one URL, released when an image of it has ended
CANCELLED_AT_A_TIME: Final = 5000
ALONE_LOSSES: Final = 2  # workers that may have died of an image before it is decoded alone
MOST_LOSSES: Final = 5  # and before it is given up
LOSS_SECONDS: Final = 5.0  # it waits after the second one, and twice as long after each further


class ImageState(StrEnum):
    """The life cycle of an image; `schema.sql` draws it."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ClaimedImage:
    """An image that is ours until its lease ends. `repeats` is the n of its earlier twin.

    Workers may have died of one with `losses`. `earlier` is of another request, if there is one.
    """

    request_id: str
    n: int
    fence: int
    attempts: int
    input_url: str
    repeats: int | None
    losses: int = 0
    earlier: EarlierImage | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt at a claimed image ended. Sizes are bytes, dimensions pixels.

    A `pending` one is to be tried again in `retry_seconds`. A later image with the same `reuse_key`
    may take over the file of a success.
    """

    request_id: str
    n: int
    fence: int
    attempts: int
    state: ImageState
    retry_seconds: float = 0.0
    reused: bool = False
    error_code: str | None = None
    error_detail: str | None = None
    http_status: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    quality: str | None = None
    hint: str | None = None
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    source_url: str | None = None
    source_sha256: str | None = None
    reuse_key: str | None = None


_OUTCOME_FIELDS: Final = [each.name for each in fields(Outcome)]

# What an image that repeats another takes over from it.
RESULT_COLUMNS = (
    "error_code",
    "error_detail",
    "http_status",
    "bytes_in",
    "bytes_out",
    "width",
    "height",
    "format",
    "quality",
    "hint",
    "sha256",
    "etag",
    "last_modified",
)


@dataclass(slots=True)
class Recorded:
    """What became of a batch of outcomes, and what has to follow.

    `accepted` are the attempts that were still ours: request id, n and fence. `ended` counts the
    images that have no further one, by state and error code. `finished` are the requests without an
    image left, `due` tells when others of a request may be claimed.
    """

    accepted: set[Attempt] = field(default_factory=set)
    finished: list[str] = field(default_factory=list)
    due: dict[str, datetime] = field(default_factory=dict)
    ended: Counter[tuple[str, str | None]] = field(default_factory=Counter, compare=False)


def claim_images(
    cursor: Cursor, request_id: str, *, limit: int, lease_seconds: float, after: int = 0
) -> list[ClaimedImage]:
    """Claim up to `limit` due images of a request that is processing, in input order.

    Of those never tried, only what is behind number `after`: who names the last one of the claim
    before does not cross again what was claimed since the last vacuum. Without it none is left out.
    """
    cursor.execute(
        # Materialized: a subquery that the plan runs again would each time lock further rows.
        """with due as materialized (
               select request_id, n from images
                where request_id = %(id)s and state = 'pending' and due_at <= now()
                  and (due_at, n) > ('-infinity', %(after)s)
                  and exists (select from requests where id = %(id)s and status = 'processing')
                order by due_at, n limit %(limit)s for update skip locked)
           update images i set state = 'running', fence = fence + 1, is_decoding = false,
                  lease_until = now() + make_interval(secs => %(lease)s)
             from due where i.request_id = due.request_id and i.n = due.n
        returning i.n, fence, attempts, input_url, repeats, losses""",
        {"id": request_id, "after": after, "limit": limit, "lease": lease_seconds},
    )
    claimed = [ClaimedImage(request_id=request_id, **row) for row in cursor.fetchall()]
    return sorted(claimed, key=lambda image: image.n)


def renew_leases(cursor: Cursor, images: Iterable[ClaimedImage], *, lease_seconds: float) -> int:
    """Extend the leases that are still ours, but for those of images that are just recorded.

    Waiting for these could be a deadlock: each locks many rows, in the order of its plan. Return
    how many were extended.
    """
    cursor.execute(
        f"""with ours as materialized (
               select i.request_id, i.n
                 from jsonb_to_recordset(%s) as o(request_id text, n integer, fence integer)
                 join images i on i.request_id = o.request_id and i.n = o.n and i.fence = o.fence
                where {_IS_RUNNING} for update of i skip locked)
           update images i set lease_until = now() + make_interval(secs => %s)
             from ours where i.request_id = ours.request_id and i.n = ours.n""",  # noqa: S608
        (json.dumps([_key(image) for image in images]), lease_seconds),
    )
    return cursor.rowcount


def mark_decoding(cursor: Cursor, image: ClaimedImage, *, is_decoding: bool) -> bool:
    """Note that an image with losses is in a decoder, or has left it; False if it isn't ours."""
    cursor.execute(
        f"""update images i set is_decoding = %s
            where request_id = %s and n = %s and fence = %s and {_IS_RUNNING}""",  # noqa: S608
        (is_decoding, image.request_id, image.n, image.fence),
    )
    return cursor.rowcount == 1


def give_back(cursor: Cursor, images: Iterable[ClaimedImage]) -> None:
    """Make claimed images that were not begun claimable at once, the attempt not counted."""
    cursor.execute(
        f"""update images i set state = 'pending', lease_until = null, due_at = '-infinity'
             from jsonb_to_recordset(%s) as o(request_id text, n integer, fence integer)
            where i.request_id = o.request_id and i.n = o.n and i.fence = o.fence
              and {_IS_RUNNING}""",  # noqa: S608
        (json.dumps([_key(image) for image in images]),),
    )


def _key(image: ClaimedImage) -> dict[str, Any]:
    return {"request_id": image.request_id, "n": image.n, "fence": image.fence}


def record_outcomes(cursor: Cursor, outcomes: Sequence[Outcome]) -> Recorded:
    """Write outcomes, count them, and say what follows.

    An outcome whose fence is no longer its image's changes nothing and is not counted.
    """
    cursor.execute(
        f"""update images i set
                  state = o.state, lease_until = null, attempts = o.attempts, reused = o.reused,
                  due_at = case o.state when 'pending'
                      then now() + make_interval(secs => o.retry_seconds) else i.due_at end,
                  error_code = o.error_code, error_detail = o.error_detail,
                  http_status = o.http_status, bytes_in = o.bytes_in, bytes_out = o.bytes_out,
                  width = o.width, height = o.height, format = o.format, quality = o.quality,
                  hint = o.hint, sha256 = o.sha256, etag = o.etag,
                  last_modified = o.last_modified, source_url = o.source_url,
                  source_sha256 = o.source_sha256, reuse_key = o.reuse_key,
                  made_at = case when o.reuse_key is not null then now() end
             from jsonb_to_recordset(%s) as o(
                  request_id text, n integer, fence integer, attempts integer, state text,
                  retry_seconds double precision, reused boolean, error_code text,
                  error_detail text, http_status integer, bytes_in bigint, bytes_out bigint,
                  width integer, height integer, format text, quality text, hint text,
                  sha256 text, etag text, last_modified text, source_url text,
                  source_sha256 text, reuse_key uuid)
            where i.request_id = o.request_id and i.n = o.n and i.fence = o.fence
              and {_IS_RUNNING}
        returning {_CHANGED}""",  # noqa: S608  # our own columns
        (json.dumps([_as_row(outcome) for outcome in outcomes]),),
    )
    return _follow_up(cursor, cursor.fetchall())


def _as_row(outcome: Outcome) -> dict[str, Any]:
    # dataclasses.asdict copies each value deeply: eight times as long.
    return {name: getattr(outcome, name) for name in _OUTCOME_FIELDS}


def give_back_expired(cursor: Cursor) -> Recorded:
    """Make the images of workers that are gone claimable again.

    One that was in a decoder waits, so that others get on meanwhile, and that a worker which is
    killed over and over is not killed with the same image each time. One that may have killed
    its worker too often ends as `compress_crash`.
    """
    cursor.execute(
        f"""with expired as (
               select request_id, n,
                      losses + (losses = 0 or is_decoding)::integer as counted,
                      case when is_decoding
                          then now() + make_interval(secs => %(wait)s * 2 ^ (losses - 1))
                          else '-infinity' end as due
                 from images where state = 'running' and lease_until < now()
                  for update skip locked),
           judged as (select *, counted >= %(most)s as is_end from expired)
           update images i set
                  state = case when is_end then 'failed' else 'pending' end,
                  losses = counted, lease_until = null, due_at = due,
                  attempts = attempts + is_end::integer,
                  error_code = case when is_end then 'compress_crash' end,
                  error_detail = case when is_end then %(detail)s end
             from judged where i.request_id = judged.request_id and i.n = judged.n
        returning {_CHANGED}""",  # noqa: S608
        {
            "most": MOST_LOSSES,
            "wait": LOSS_SECONDS,
            "detail": "The worker that decoded the image died, every time.",
        },
    )
    return _follow_up(cursor, cursor.fetchall())


def cancel_pending(cursor: Cursor, request_id: str, *, after: int = 0) -> Recorded:
    """End a portion of the images of a cancelling request that nobody works on.

    Of those behind number `after`, in input order: what is ended is not crossed again.
    """
    cursor.execute(  # locked, so that no retry comes in between
        "select from requests where id = %s and status = 'cancelling' for update", (request_id,)
    )
    if not cursor.rowcount:
        return Recorded()
    cursor.execute(
        f"""with portion as materialized (
               select request_id, n from images
                where request_id = %(id)s and n > %(after)s and {_IS_PENDING}
                order by n limit %(limit)s for update skip locked)
           update images i set state = 'cancelled', error_code = 'cancelled',
                  error_detail = 'The request was cancelled first.', http_status = null
             from portion where i.request_id = portion.request_id and i.n = portion.n
        returning {_CHANGED}""",  # noqa: S608
        {"id": request_id, "after": after, "limit": CANCELLED_AT_A_TIME},
    )
    # What repeats one of these is pending, too, and will be cancelled where it is.
    return _follow_up(cursor, cursor.fetchall(), releases=False)


_CHANGED: Final = """i.request_id, i.n, i.fence, coalesce(i.repeats, i.n) as first, i.state,
                  i.due_at, i.error_code, i.bytes_in, i.bytes_out"""


def _follow_up(
    cursor: Cursor, changed: Sequence[dict[str, Any]], *, releases: bool = True
) -> Recorded:
    """Count the images that ended among those that changed, and say what follows."""
    recorded = Recorded(accepted={(row["request_id"], row["n"], row["fence"]) for row in changed})
    by_request: dict[str, list[dict[str, Any]]] = {}
    for row in changed:
        by_request.setdefault(row["request_id"], []).append(row)
    for request_id, rows in sorted(by_request.items()):  # one lock order for all workers
        ended = [row for row in rows if row["state"] != ImageState.PENDING]
        recorded.ended.update((row["state"], row["error_code"]) for row in ended)
        due = [row["due_at"] for row in rows if row["state"] == ImageState.PENDING]
        if ended:
            # Counting locks the request, so what a retry made wait meanwhile is released then.
            if _count(cursor, request_id, ended):
                recorded.finished.append(request_id)
            elif releases:
                firsts = {row["first"] for row in ended}
                due += _release_repeating(cursor, request_id, firsts)
        if due:
            recorded.due[request_id] = min(due)
    return recorded


def _release_repeating(cursor: Cursor, request_id: str, firsts: set[int]) -> list[datetime]:
    """Let some of the images go on that repeat these; return when, if there are any.

    A portion for each at a time: when one of it has ended, it brings the next.
    """
    cursor.execute(
        # Ordered as the index is: without an order, and with many that wait for the same one, the
        # planner takes a look through the whole table for the shorter way.
        """with released as (
               update images i set due_at = now()
                 from unnest(%(firsts)s::integer[]) as first,
                      lateral (select request_id, n from images
                                where request_id = %(id)s and repeats = first
                                  and state = 'pending' and due_at = 'infinity'
                                order by n limit %(portion)s) as portion
                where i.request_id = portion.request_id and i.n = portion.n
               returning i.due_at)
           select max(due_at) as due_at from released""",
        {"id": request_id, "firsts": list(firsts), "portion": REPEATS_AT_A_TIME},
    )
    row = cursor.fetchone()
    return [row["due_at"]] if row and row["due_at"] else []


def _count(cursor: Cursor, request_id: str, ended: list[dict[str, Any]]) -> bool:
    """Add ended images to their request's counters; tell whether they were the last."""
    states = Counter(row["state"] for row in ended)
    good = [row for row in ended if row["state"] == ImageState.SUCCEEDED]
    codes = Counter(row["error_code"] for row in ended if row["error_code"])
    cursor.execute(
        """update requests set
                  succeeded = succeeded + %s, failed = failed + %s, cancelled = cancelled + %s,
                  bytes_in = bytes_in + %s, bytes_out = bytes_out + %s,
                  errors_by_code = (
                      select coalesce(jsonb_object_agg(code, total), '{}') from (
                          select key as code, sum(value::bigint) as total from (
                              select * from jsonb_each_text(errors_by_code)
                              union all select * from jsonb_each_text(%s)) as counts
                           group by key) as totals)
            where id = %s
        returning succeeded + failed + cancelled = images as is_done""",
        (
            states[ImageState.SUCCEEDED],
            states[ImageState.FAILED],
            states[ImageState.CANCELLED],
            sum(row["bytes_in"] for row in good),
            sum(row["bytes_out"] for row in good),
            json.dumps(codes),
            request_id,
        ),
    )
    row = cursor.fetchone()
    return bool(row and row["is_done"])


def select_next_due(cursor: Cursor, request_id: str, *, pause: float = 0.0) -> datetime | None:
    """Return when a turn has something to do next, `pause` seconds from now at the earliest.

    None if no image waits for one.
    """
    cursor.execute(
        f"""select case when %(pause)s > 0 and r.status = 'processing'
                        then greatest(due, now() + make_interval(secs => %(pause)s))
                        else due end as due_at
             from requests r, lateral (select {NEXT_DUE} as due) as next
            where r.id = %(id)s""",  # noqa: S608  # our own words
        {"id": request_id, "pause": pause},
    )
    row = cursor.fetchone()
    return row["due_at"] if row else None


# When a turn of the request `r` has something to do; null if it never has. One index look-up.
NEXT_DUE: Final = """case r.status
    when 'processing' then (
        select i.due_at from images i
         where i.request_id = r.id and i.state = 'pending' and i.due_at < 'infinity'
         order by i.due_at limit 1)
    when 'cancelling' then (
        select now() from images i where i.request_id = r.id and i.state = 'pending'
         order by i.due_at limit 1)
    end"""


def select_twin(cursor: Cursor, image: ClaimedImage) -> dict[str, Any]:
    """Return the row of the ended image that `image` repeats."""
    cursor.execute(
        "select * from images where request_id = %s and n = %s", (image.request_id, image.repeats)
    )
    twin = cursor.fetchone()
    assert twin is not None  # noqa: S101  # rows of one request are written and deleted together
    return twin
