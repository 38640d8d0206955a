"""Requests and their images as they stand in PostgreSQL, for those who show or check them.

What changes them is in `request_queue` and `image_queue`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from database_helper import Cursor

PAGE_BYTES: Final = 4 * 2**20  # of the texts in one page of rows

# With the database's clock as `now`, and as `webhook` the newest event, all in one read.
_SELECT_REQUESTS: Final = """
    select r.*, now(), (
               select to_jsonb(newest) from (
                   select id, state, attempts, last_status, last_error, due_at, delivered_at
                     from webhooks where request_id = r.id
                    order by created_at desc limit 1) as newest) as webhook
      from requests r"""


def select_request(cursor: Cursor, request_id: str) -> dict[str, Any] | None:
    """Return a request's row with its newest event and the clock, or None."""
    cursor.execute(f"{_SELECT_REQUESTS} where id = %s", (request_id,))
    return cursor.fetchone()


def select_requests(
    cursor: Cursor, *, limit: int, before: tuple[datetime, str] | None, owner: str | None
) -> Sequence[dict[str, Any]]:
    """Return requests, newest first, those created before the pair (created_at, id)."""
    cursor.execute(
        f"""{_SELECT_REQUESTS}
            where (%(owner)s is null or owner = %(owner)s)
              and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s, %(id)s))
            order by created_at desc, id desc limit %(limit)s""",
        {
            "owner": owner,
            "limit": limit,
            "at": before[0] if before else None,
            "id": before[1] if before else None,
        },
    )
    return cursor.fetchall()


def select_images(
    cursor: Cursor,
    request_id: str,
    *,
    state: str | None = None,
    code: str | None = None,
    after: int = 0,
    limit: int,
) -> tuple[Sequence[dict[str, Any]], bool]:
    """Return images behind number `after` in input order; and tell whether there may be more.

    All of them, or those in a `state`, or those that failed with a `code`. With the serial number
    and name of their product. Ends early at PAGE_BYTES of texts.
    """
    # The images first, then their products, each by its index: statistics that know nothing of a
    # new request have all of it read and sorted for each page. Statements that are sent together
    # are one transaction, in which `local` holds also where there is no other.
    cursor.execute(
        """set local enable_seqscan = off; set local enable_bitmapscan = off;
           select * from (
               select *, sum(bytes) over (order by n rows unbounded preceding) as bytes_so_far
                 from (select i.*, l.serial_number, l.product_name,
                              octet_length(concat(i.input_url, l.product_name)) as bytes
                         from (select * from images
                                where request_id = %(id)s and n > %(after)s
                                  and (%(state)s is null or state = %(state)s)
                                  and (%(code)s is null
                                       or (state = 'failed' and error_code = %(code)s))
                                order by n limit %(limit)s + 1) as i
                         join image_links l using (request_id, row)) as found
           ) as page
            where bytes_so_far - bytes < %(most)s
            order by n""",
        {
            "id": request_id,
            "after": after,
            "state": state,
            "code": code,
            "limit": limit,
            "most": PAGE_BYTES,
        },
    )
    rows = cursor.fetchall()
    is_cut = len(rows) > limit or bool(rows and rows[-1]["bytes_so_far"] >= PAGE_BYTES)
    return rows[:limit], is_cut


def select_image_fences(
    cursor: Cursor, images: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return state and fence of the images with these request ids and numbers."""
    cursor.execute(
        """select i.request_id, i.n, i.state, i.fence
             from images i join unnest(%s::text[], %s::integer[]) as named(request_id, n)
               on i.request_id = named.request_id and i.n = named.n""",
        ([request_id for request_id, _ in images], [n for _, n in images]),
    )
    return {(row["request_id"], row["n"]): row for row in cursor.fetchall()}
