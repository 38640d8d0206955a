"""The statements of requests as a whole: begin, finish, retry, cancel, delete.

Every function takes the cursor of an open transaction and opens none. A finish is leased and
fenced like an image (`schema.sql`). Images by themselves are `image_queue`'s, uploading and
reading `request_rows`'s.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from database_helper import BATCH_SECONDS, LONG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from database_helper import Cursor

PURGED_AT_A_TIME: Final = 5000  # rows of one table
FIRST_PURGED: Final = ("images", 0)
_PURGED: Final = {"images": ("n", "image_links"), "image_links": ("row", "")}  # what comes then
MAX_INTEGER: Final = 2**31 - 1
RETRIED_AT_A_TIME: Final = 5000  # images, while the request's row is locked
NEXT_PORTION_SECONDS: Final = 15.0  # for which nobody may finish between two portions of a retry


class RequestStatus(StrEnum):
    """The life cycle of a request; `schema.sql` draws it."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class Retried(NamedTuple):
    """A portion of a retry: how many images, the number of the last one, the request's status."""

    images: int
    last: int
    status: RequestStatus


def begin_request(cursor: Cursor, request_id: str) -> dict[str, Any] | None:
    """Take a pending request into work; None when it is not pending any more.

    An image whose URL stood earlier in the request is made to wait for that one.
    """
    cursor.execute(
        """update requests set status = 'processing', started_at = now()
            where id = %s and status = 'pending' returning *""",
        (request_id,),
    )
    request = cursor.fetchone()
    if request:
        cursor.allow(LONG_SECONDS)
        # The statistics know nothing of a new request. Taken for a row or two, its images would be
        # grouped again for each of them.
        cursor.execute("set local enable_nestloop = off")
        cursor.execute(
            """with repeated as (
                   select input_url, min(n) as first from images where request_id = %(id)s
                    group by input_url having count(*) > 1)
               update images i set repeats = repeated.first, due_at = 'infinity'
                 from repeated
                where i.request_id = %(id)s and i.input_url = repeated.input_url
                  and i.n <> repeated.first""",
            {"id": request_id},
        )
    return request


# --- The finish ------------------------------------------------------------------------------


def take_finish(cursor: Cursor, request_id: str, *, lease_seconds: float) -> dict[str, Any] | None:
    """Take the finish of a request whose images have all ended; return its row.

    None when there is nothing to finish, or another one is at it.
    """
    cursor.execute(
        """update requests
              set fence = fence + 1, lease_until = now() + make_interval(secs => %s)
            where id = %s and finished_at is null
              and succeeded + failed + cancelled = images
              and (lease_until is null or lease_until < now())
        returning *""",
        (lease_seconds, request_id),
    )
    return cursor.fetchone()


def renew_finish(cursor: Cursor, request_id: str, fence: int, *, lease_seconds: float) -> bool:
    """Extend the lease of a finish; False when it is no longer ours."""
    cursor.execute(
        """update requests set lease_until = now() + make_interval(secs => %s)
            where id = %s and fence = %s and finished_at is null""",
        (lease_seconds, request_id, fence),
    )
    return cursor.rowcount == 1


def leave_finish(cursor: Cursor, request_id: str, fence: int) -> None:
    """Let another one finish the request at once."""
    cursor.execute(
        """update requests set lease_until = null
            where id = %s and fence = %s and finished_at is null""",
        (request_id, fence),
    )


def finish_request(cursor: Cursor, request_id: str, fence: int) -> dict[str, Any] | None:
    """Set the final status, once; the output CSVs must be in the store by then.

    Return the finished row, or None when the finish is no longer ours.
    """
    cursor.execute(
        """update requests set finished_at = now(), lease_until = null, status = case
                  when status = 'cancelling' then 'cancelled'
                  when succeeded = images then 'completed'
                  when succeeded = 0 then 'failed'
                  else 'completed_with_errors' end
            where id = %s and fence = %s and finished_at is null
              and succeeded + failed + cancelled = images
        returning *, now()""",
        (request_id, fence),
    )
    return cursor.fetchone()


# --- What users ask for ----------------------------------------------------------------------


def lock_request(cursor: Cursor, request_id: str) -> RequestStatus | None:
    """Let nothing else change a request before the transaction's end; None if there is none."""
    cursor.execute("select status from requests where id = %s for update", (request_id,))
    row = cursor.fetchone()
    return RequestStatus(row["status"]) if row else None


def retry_request(cursor: Cursor, request_id: str, *, after: int) -> Retried | None:
    """Make a portion of the failed or cancelled images of a request pending again.

    Of those behind number `after`, in input order. Those that repeat another wait for it if that
    runs again. A request that was cancelled before it began is pending again itself. None when
    there is no such request, or it is just being cancelled.
    """
    # Locked, so that nothing ends in between and the counters stay right.
    status = lock_request(cursor, request_id)
    if status is None or status == RequestStatus.CANCELLING:
        return None
    if after and status == RequestStatus.CANCELLED:  # since the portion before
        return Retried(0, after, status)
    # Whatever the statistics say, a portion is read by its index. A twin, too, as it is asked for a
    # value: for an `exists` the planner may read the images of all requests and hash them.
    cursor.execute("set local enable_seqscan = off; set local enable_bitmapscan = off")
    cursor.execute(
        """with portion as materialized (
               select request_id, n, state, error_code from images
                where request_id = %(id)s and n > %(after)s and state in ('failed', 'cancelled')
                order by n limit %(limit)s),
           again as (
               update images i set state = 'pending', attempts = 0, losses = 0, reused = false,
                      error_code = null, error_detail = null, http_status = null,
                      due_at = case when (
                          select twin.state in ('pending', 'running')
                                 or twin.state <> 'succeeded' and twin.n > %(after)s
                            from images twin
                           where twin.request_id = i.request_id and twin.n = i.repeats)
                          then 'infinity' else '-infinity' end::timestamptz
                 from portion where i.request_id = portion.request_id and i.n = portion.n)
           update requests set
                  status = case when started_at is null then 'pending' else 'processing' end,
                  started_at = case when started_at is not null then now() end,
                  finished_at = null, done_before = succeeded, fence = fence + 1,
                  lease_until = case when gone.images = %(limit)s and exists (
                          select from images where request_id = %(id)s and n > gone.last
                             and state in ('failed', 'cancelled'))
                      then now() + make_interval(secs => %(pause)s) end,
                  failed = requests.failed - gone.failed,
                  cancelled = requests.cancelled - gone.cancelled, errors_by_code = (
                      select coalesce(jsonb_object_agg(code, total - less), '{}')
                        from (select key as code, value::bigint as total, (
                                  select count(*) from portion where error_code = key) as less
                                from jsonb_each_text(errors_by_code)) as codes
                       where total > less)
             from (select count(*) as images, max(n) as last,
                          count(*) filter (where state = 'failed') as failed,
                          count(*) filter (where state = 'cancelled') as cancelled
                     from portion) as gone
            where id = %(id)s and gone.images > 0
        returning gone.images, gone.last, status""",
        {
            "id": request_id,
            "after": after,
            "limit": RETRIED_AT_A_TIME,
            "pause": NEXT_PORTION_SECONDS,
        },
    )
    changed = cursor.fetchone()
    if changed is None:
        return Retried(0, after, status)
    return Retried(changed["images"], changed["last"], RequestStatus(changed["status"]))


def cancel_request(cursor: Cursor, request_id: str) -> bool:
    """Let no further image of an unfinished request begin; False if it is finished."""
    cursor.execute(
        "update requests set status = 'cancelling' where id = %s and finished_at is null",
        (request_id,),
    )
    return cursor.rowcount == 1


def select_cancelling(cursor: Cursor, request_ids: Collection[str]) -> set[str]:
    """Return which of these requests are being cancelled."""
    cursor.execute(
        "select id from requests where id = any(%s) and status = 'cancelling'", (list(request_ids),)
    )
    return {row["id"] for row in cursor.fetchall()}


def delete_request(cursor: Cursor, request_id: str) -> bool:
    """Make a finished request unknown; its files and rows are to be purged.

    False if it is not finished.
    """
    return bool(_bury(cursor, "id = %s and finished_at is not null", request_id))


def delete_expired_requests(cursor: Cursor, *, days: float, limit: int) -> list[str]:
    """Likewise the oldest of those that were finished so long ago; return their ids."""
    return _bury(
        cursor,
        """id in (select id from requests where finished_at < now() - make_interval(secs => %s)
                   order by finished_at limit %s for update skip locked)""",
        days * 86_400,
        limit,
    )


def _bury(cursor: Cursor, condition: str, *values: Any) -> list[str]:
    cursor.execute(
        f"""with deleted as (delete from requests where {condition} returning id, owner)
            insert into deleted_requests (id, owner) select id, owner from deleted
            on conflict (id) do nothing returning id""",  # noqa: S608  # our own conditions
        values,
    )
    return [row["id"] for row in cursor.fetchall()]


def select_deleted_request(cursor: Cursor, request_id: str) -> dict[str, Any] | None:
    """Return what is left of a deleted request: id, owner, deleted_at, purged_at."""
    cursor.execute("select * from deleted_requests where id = %s", (request_id,))
    return cursor.fetchone()


def select_deleted(cursor: Cursor, request_ids: Sequence[str]) -> set[str]:
    """Return which of these ids are those of deleted requests."""
    cursor.execute("select id from deleted_requests where id = any(%s)", (list(request_ids),))
    return {row["id"] for row in cursor.fetchall()}


def claim_purge(cursor: Cursor, *, lease_seconds: float) -> str | None:
    """Return the id of a deleted request that is to be purged and that nobody is at."""
    cursor.execute(
        """update deleted_requests set lease_until = now() + make_interval(secs => %s)
            where id = (select id from deleted_requests
                         where purged_at is null
                           and (lease_until is null or lease_until < now())
                         order by lease_until nulls first, id limit 1 for update skip locked)
        returning id""",
        (lease_seconds,),
    )
    row = cursor.fetchone()
    return row["id"] if row else None


def renew_purge(cursor: Cursor, request_id: str, *, lease_seconds: float) -> None:
    """Keep others from a purge that takes long."""
    cursor.execute(
        """update deleted_requests set lease_until = now() + make_interval(secs => %s)
            where id = %s and purged_at is null""",
        (lease_seconds, request_id),
    )


def purge_rows(
    cursor: Cursor, request_id: str, after: tuple[str, int] = FIRST_PURGED
) -> tuple[str, int] | None:
    """Delete a portion of the rows of a deleted request; None if there is none left.

    Else return the place behind which to go on: what is deleted is not crossed again.
    """
    cursor.allow(BATCH_SECONDS)
    table, last = after
    while table:
        number, following = _PURGED[table]
        cursor.execute(
            f"""with gone as (
                    delete from {table} where request_id = %(id)s and {number} > %(last)s
                       and {number} <= coalesce((
                           select {number} from {table}
                            where request_id = %(id)s and {number} > %(last)s
                            order by {number} offset %(most)s - 1 limit 1), {MAX_INTEGER})
                       and exists (select from deleted_requests where id = %(id)s)
                    returning {number})
                select max({number}) as last from gone""",  # noqa: S608  # our own tables
            {"id": request_id, "last": last, "most": PURGED_AT_A_TIME},
        )
        row = cursor.fetchone()
        if row and row["last"] is not None:
            return table, row["last"]
        table, last = following, 0
    cursor.execute(  # another purge may have had the rows that ours was to delete, not all
        """update deleted_requests set purged_at = now()
            where id = %(id)s and purged_at is null
              and not exists (select from images where request_id = %(id)s)
              and not exists (select from image_links where request_id = %(id)s)""",
        {"id": request_id},
    )
    cursor.execute(
        "select id from deleted_requests where id = %s and purged_at is null", (request_id,)
    )
    return FIRST_PURGED if cursor.fetchone() else None
