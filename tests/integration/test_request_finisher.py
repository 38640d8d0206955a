"""The end of a request: its CSVs, byte for byte, and the database's own output cells."""

from __future__ import annotations

import csv
import io
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import request_finisher
from csv_validator import ProductRow
from database_helper import copy_products, insert_request, select_request
from errors import ImageError
from image_queue import ImageState, Outcome, claim_images, record_outcomes
from image_store import ImageStore
from output_files import OutputFiles
from request_finisher import RequestFinisher
from request_queue import begin_request
from storage_keys import output_csv_key, report_csv_key

if TYPE_CHECKING:
    from pathlib import Path

    from database_helper import Database

BASE = "https://images.example"
COLUMNS = ["Serial Number", "Product Name", "Input Image Urls"]
REPORT_COLUMNS = (
    "row,serial_number,product_name,position,input_url,output_url,state,code,detail,http_status,"
    "attempts,bytes_in,bytes_out,width,height,format,quality"
)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _finisher(database: Database, store: ImageStore) -> RequestFinisher:
    return RequestFinisher(database, store, OutputFiles(database, store), lease_seconds=30)


class Finished:
    """A request whose images have all ended, as the letters of `ends` say: s, f or c."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        products: list[ProductRow],
        ends: str,
        columns: list[str] | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.database = database
        self.store = ImageStore(f"file:{folder}")
        self.folder = folder
        with database.transaction() as cursor:
            counts = copy_products(cursor, self.id, products)
            insert_request(
                cursor,
                self.id,
                options={},
                columns=columns or COLUMNS,
                base_url=BASE,
                counts=counts,
                owner=None,
            )
            begin_request(cursor, self.id)
            cursor.execute("update images set due_at = '-infinity'")  # twins don't matter here
            images = claim_images(cursor, self.id, limit=10**6, lease_seconds=60)
            record_outcomes(
                cursor,
                [
                    Outcome(
                        request_id=self.id,
                        n=image.n,
                        fence=image.fence,
                        attempts=1,
                        **_ending(end),
                    )
                    for image, end in zip(images, ends, strict=True)
                ],
            )

    def write(self) -> None:
        """Write the outputs."""
        _finisher(self.database, self.store).finish(self.id)

    def url(self, n: int, extension: str = "jpg") -> str:
        """Return the URL of an image's output."""
        return f"{BASE}/uploads/{self.id}/{self.id}-{n}.{extension}"

    @property
    def output(self) -> bytes:
        """The output CSV."""
        return (self.folder / output_csv_key(self.id)).read_bytes()

    @property
    def report(self) -> bytes:
        """The report."""
        return (self.folder / report_csv_key(self.id)).read_bytes()

    @property
    def cells(self) -> list[str | None]:
        """What the database has as output cells."""
        with self.database.transaction() as cursor:
            cursor.execute(
                "select output_image_urls from image_links where request_id = %s order by row",
                (self.id,),
            )
            return [row["output_image_urls"] for row in cursor.fetchall()]

    @property
    def row(self) -> dict[str, Any]:
        """The request's row."""
        with self.database.transaction() as cursor:
            row = select_request(cursor, self.id)
        assert row
        return row


def _ending(letter: str) -> dict[str, Any]:
    if letter == "s":
        return {
            "state": ImageState.SUCCEEDED,
            "bytes_in": 1000,
            "bytes_out": 400,
            "width": 30,
            "height": 20,
            "format": "jpeg",
            "quality": "82",
        }
    if letter == "f":
        return {
            "state": ImageState.FAILED,
            "error_code": "http_404",
            "error_detail": "The origin answered with HTTP status 404.",
            "http_status": 404,
        }
    return {"state": ImageState.CANCELLED, "error_code": "cancelled"}


def _product(number: int, *urls: str, **fields: Any) -> ProductRow:
    product = ProductRow(
        number + 1, f"{number}", f"Lamp {number}", ",".join(urls), None, list(urls)
    )
    return product._replace(**fields)


def test_both_files_are_written_and_the_request_is_finished(
    database: Database, tmp_path: Path
) -> None:
    """Every byte of a small request's output and report; slots stay in place where images failed."""
    request = Finished(
        database,
        tmp_path,
        [_product(1, "http://a/1", "http://a/2"), _product(2, "http://a/3")],
        "fss",
    )
    request.write()
    assert request.output.decode() == (
        "Serial Number,Product Name,Input Image Urls,Output Image Urls\r\n"
        f'1,Lamp 1,"http://a/1,http://a/2",",{request.url(2)}"\r\n'
        f"2,Lamp 2,http://a/3,{request.url(3)}\r\n"
    )
    assert request.report.decode() == (
        f"{REPORT_COLUMNS}\r\n"
        "1,1,Lamp 1,1,http://a/1,,failed,http_404,The origin answered with HTTP status 404.,404,"
        "1,,,,,,\r\n"
        f"1,1,Lamp 1,2,http://a/2,{request.url(2)},succeeded,,,,1,1000,400,30,20,jpeg,82\r\n"
        f"2,2,Lamp 2,1,http://a/3,{request.url(3)},succeeded,,,,1,1000,400,30,20,jpeg,82\r\n"
    )
    assert request.cells == [f",{request.url(2)}", request.url(3)]
    assert request.row["status"] == "completed_with_errors"
    assert request.row["finished_at"]


@pytest.mark.parametrize("page", [1, 2, 3, 4, 7, 100])
def test_page_boundaries_make_no_difference(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """A product whose images stand on two pages comes out whole, and every cell is filled."""
    monkeypatch.setattr(request_finisher, "PAGE", page)
    urls = [[f"http://a/{row}/{n}" for n in range(row % 3 + 1)] for row in range(1, 8)]
    products = [_product(row, *cells) for row, cells in enumerate(urls, 1)]
    ends = ("sfsc" * 4)[: sum(map(len, urls))]
    request = Finished(database, tmp_path, products, ends)
    request.write()
    made = iter([request.url(n) if end == "s" else "" for n, end in enumerate(ends, 1)])
    expected = [",".join(next(made) for _ in cells) for cells in urls]
    lines = list(csv.DictReader(io.StringIO(request.output.decode(), newline="")))
    assert [line["Output Image Urls"] for line in lines] == expected == request.cells
    assert [line["Serial Number"] for line in lines] == [str(row) for row in range(1, 8)]
    assert len(request.report.splitlines()) == 1 + len(ends)


def test_writing_again_gives_the_same_bytes(database: Database, tmp_path: Path) -> None:
    """A worker that died before the final status costs nothing but the work."""
    request = Finished(database, tmp_path, [_product(1, "http://a/1", "http://a/1")], "sf")
    request.write()
    files = (request.output, request.report)
    with database.transaction() as cursor:
        cursor.execute("update requests set status = 'processing', finished_at = null")
    request.write()
    assert (request.output, request.report) == files
    assert request.row["finished_at"]


def test_a_finished_request_is_left_alone(database: Database, tmp_path: Path) -> None:
    """A job that runs late changes neither files nor row."""
    request = Finished(database, tmp_path, [_product(1, "http://a/1")], "s")
    request.write()
    finished_at = request.row["finished_at"]
    (tmp_path / output_csv_key(request.id)).write_bytes(b"as it was")
    request.write()
    assert request.output == b"as it was"
    assert request.row["finished_at"] == finished_at


def test_a_deleted_request_is_nothing_to_write(database: Database, tmp_path: Path) -> None:
    """A job that outlived its request does nothing."""
    _finisher(database, ImageStore(f"file:{tmp_path}")).finish("ab" * 16)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


ODD = [
    "",
    " ",
    "007",
    "a,b",
    'say "so"',
    "two\r\nlines",
    "größe 日本 😀",
    "-12.5",
    "'quoted",
    "\\N",
]


def test_other_columns_come_back_as_they_were(database: Database, tmp_path: Path) -> None:
    """Further columns keep their place around the required ones, and odd cells their text."""
    columns = ["Colour", "URLs", "Größe, cm", "S. No.", "product name", "Colour"]
    products = [
        _product(row, "http://a/1", product_name=cell or "x", other_cells=[cell, "", cell])
        for row, cell in enumerate(ODD, 1)
    ]
    request = Finished(database, tmp_path, products, "s" * len(ODD), columns)
    request.write()
    lines = list(csv.reader(io.StringIO(request.output.decode(), newline="")))
    assert lines[0] == [*columns, "Output Image Urls"]
    assert lines[1:] == [
        [cell, "http://a/1", "", str(row), cell or "x", cell, request.url(row)]
        for row, cell in enumerate(ODD, 1)
    ]


def test_cells_that_a_spreadsheet_would_run_stay_as_they_were_in_the_database(
    database: Database, tmp_path: Path
) -> None:
    """Only the file is neutralised."""
    cell = "=cmd|'/c calc'!A1"
    request = Finished(database, tmp_path, [_product(1, "http://a/1", product_name=cell)], "s")
    request.write()
    assert f"1,'{cell},http://a/1," in request.output.decode()
    with database.transaction() as cursor:
        cursor.execute("select product_name from image_links")
        assert [row["product_name"] for row in cursor.fetchall()] == [cell]


def test_a_store_that_fails_leaves_the_request_unfinished(
    database: Database, tmp_path: Path
) -> None:
    """The final status waits until the files are there; the next try writes them."""
    request = Finished(database, tmp_path, [_product(1, "http://a/1")], "s")
    staged = tmp_path / "static/.staged"
    staged.rmdir()
    staged.write_text("in the way")
    with pytest.raises(ImageError):
        request.write()
    assert (request.row["status"], request.row["lease_until"]) == ("processing", None)
    staged.unlink()
    request.write()
    assert request.row["status"] == "completed"


def test_a_request_with_images_under_way_is_not_finished(
    database: Database, tmp_path: Path
) -> None:
    """A job that came too early leaves the status to the one that comes at the end."""
    request = Finished(database, tmp_path, [_product(1, "http://a/1", "http://a/2")], "ss")
    with database.transaction() as cursor:
        cursor.execute("update images set state = 'running' where n = 2")
        cursor.execute("update requests set succeeded = 1")
    request.write()
    assert request.row["status"] == "processing"
    assert request.row["finished_at"] is None
