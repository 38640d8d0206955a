"""The statements of the output CSVs: rows by the page, in input order, and output cells back.

Images and products are read apart, each by a range of its primary key, with the columns that are
needed and no more: a join of both by product, with all columns, took most of a finish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from request_rows import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from database_helper import Cursor


class Rows(NamedTuple):
    """Columns of a request's rows in the order of `number`; `texts` are those that may be long."""

    table: str
    number: str
    columns: str
    texts: str


OUTPUTS: Final = Rows("images", "n", "request_id, n, row, state, format", "''")
REPORTED: Final = Rows(
    "images",
    "n",
    """request_id, n, row, position, input_url, state, error_code, error_detail, http_status,
       attempts, bytes_in, bytes_out, width, height, format, quality, hint""",
    "concat(input_url, error_detail)",
)
PRODUCTS: Final = Rows(
    "image_links",
    "row",
    "row, serial_number, product_name, input_image_urls, other_cells",
    "concat(product_name, input_image_urls, other_cells)",
)
NAMES: Final = Rows(
    "image_links", "row", "row, serial_number, product_name", "concat(serial_number, product_name)"
)


def select_rows(
    cursor: Cursor, request_id: str, rows: Rows, *, after: int, limit: int
) -> Sequence[dict[str, Any]]:
    """Return rows behind number `after`; none, if that was the last. Ends early at PAGE_BYTES."""
    cursor.execute(
        f"""select {rows.columns} from (
                select *, sum(bytes) over (order by {rows.number} rows unbounded preceding)
                       as bytes_so_far
                  from (select {rows.columns}, octet_length({rows.texts}) as bytes
                          from {rows.table}
                         where request_id = %(id)s and {rows.number} > %(after)s
                         order by {rows.number} limit %(limit)s) as found) as page
             where bytes_so_far - bytes < %(most)s
             order by {rows.number}""",  # noqa: S608  # our own columns
        {"id": request_id, "after": after, "limit": limit, "most": PAGE_BYTES},
    )
    return cursor.fetchall()


def update_output_urls(cursor: Cursor, request_id: str, cells: Sequence[tuple[int, str]]) -> None:
    """Set `output_image_urls` of the products with these row numbers, which lie side by side."""
    if not cells:
        return
    rows = [row for row, _ in cells]
    cursor.execute(
        # With the range, a portion is read by its index; without, a scan of the table for each
        # portion seems cheaper to the planner than as many look-ups.
        """update image_links l set output_image_urls = c.urls
             from unnest(%s::integer[], %s::text[]) as c(row, urls)
            where l.request_id = %s and l.row = c.row and l.row between %s and %s""",
        (rows, [urls for _, urls in cells], request_id, min(rows), max(rows)),
    )
