"""An upload's rows on their way into PostgreSQL: products and images by COPY, then the request."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from csv_validator import ProductRow
    from database_helper import Cursor

COPY_BATCH_CHARACTERS: Final = 4 * 2**20  # per table and COPY: bounds the memory of an upload


@dataclass(frozen=True, slots=True)
class UploadCounts:
    """What an upload holds."""

    products: int
    images: int


def copy_products(cursor: Cursor, request_id: str, products: Iterable[ProductRow]) -> UploadCounts:
    """COPY products and their images in input order, a batch of each in turn.

    Memory is bounded by COPY_BATCH_CHARACTERS. What `products` raises goes through and rolls
    the transaction back.
    """
    links, images = _CopyBuffer(_COPY_LINKS), _CopyBuffer(_COPY_IMAGES)
    row = n = 0
    for row, (line, serial, name, cell, others, urls) in enumerate(products, 1):
        links.add(
            f"{request_id}\t{row}\t{line}\t{_escape(serial)}\t{_escape(name)}\t{_escape(cell)}"
            f"\t{_array(others)}\n"
        )
        for position, url in enumerate(urls, 1):
            n += 1
            images.add(f"{request_id}\t{n}\t{row}\t{position}\t{_escape(url)}\n")
        if links.characters + images.characters >= COPY_BATCH_CHARACTERS:
            links.flush(cursor)
            images.flush(cursor)
    links.flush(cursor)
    images.flush(cursor)
    return UploadCounts(products=row, images=n)


_COPY_LINKS: Final = (
    "copy image_links (request_id, row, line, serial_number, product_name, input_image_urls,"
    " other_cells) from stdin"
)
_COPY_IMAGES: Final = "copy images (request_id, n, row, position, input_url) from stdin"
_COPY_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_ARRAY_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\""})


class _CopyBuffer:
    """Lines of PostgreSQL's text COPY format, on their way to one table."""

    def __init__(self, statement: str) -> None:
        self._statement = statement
        self._lines: list[str] = []
        self.characters = 0

    def add(self, line: str) -> None:
        self._lines.append(line)
        self.characters += len(line)

    def flush(self, cursor: Cursor) -> None:
        if self._lines:
            cursor.copy_expert(self._statement, io.StringIO("".join(self._lines)), size=2**18)
            self._lines.clear()
            self.characters = 0


def _escape(text: str) -> str:
    # Four looks at C's speed: translating what needs nothing takes ten times as long.
    if "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        return text.translate(_COPY_ESCAPES)
    return text


def _array(cells: list[str] | None) -> str:
    if cells is None:
        return r"\N"
    quoted = ",".join([f'"{cell.translate(_ARRAY_ESCAPES)}"' for cell in cells])
    return _escape(f"{{{quoted}}}")


def insert_request(  # noqa: PLR0913  # one argument a column
    cursor: Cursor,
    request_id: str,
    *,
    options: dict[str, Any],
    columns: list[str],
    base_url: str,
    counts: UploadCounts,
    owner: str | None,
) -> None:
    """Write the pending row of an upload whose products and images are copied."""
    cursor.execute(
        """insert into requests (id, options, columns, base_url, products, images, owner)
           values (%s, %s, %s, %s, %s, %s, %s)""",
        (
            *(request_id, json.dumps(options), columns, base_url),
            *(counts.products, counts.images, owner),
        ),
    )
