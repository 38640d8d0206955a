"""The end of a request: its CSVs, byte for byte, and the database's own output cells."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import request_finisher
from csv_validator import ProductRow
from database_helper import Database
from errors import ErrorCode, ImageError
from image_queue import ImageState, Outcome, claim_images, record_outcomes
from output_files import OutputFiles
from request_finisher import RequestFinisher
from request_queue import begin_request, delete_request, retry_request, take_finish
from request_rows import select_request
from storage.folder_store import FolderStore
from storage.storage_keys import STAGED_CSVS, STAGED_IMAGES, output_csv_key, report_csv_key
from upload_rows import copy_products, insert_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from database_helper import Cursor

BASE = "https://images.example"
PATIENCE_SECONDS = 20.0
COLUMNS = ["Serial Number", "Product Name", "Input Image Urls"]
REPORT_COLUMNS = (
    "row,serial_number,product_name,position,input_url,output_url,state,code,detail,http_status,"
    "attempts,bytes_in,bytes_out,width,height,format,quality,hint"
)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _finisher(database: Database, store: FolderStore) -> RequestFinisher:
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
        self.store = FolderStore(folder)
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
            "hint": "More.",
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
    """Every byte of both; slots stay where images failed, credentials where the user put them."""
    request = Finished(
        database,
        tmp_path,
        [_product(1, "http://a/1", "http://me:pass@a/2"), _product(2, "http://a/3")],
        "fss",
    )
    request.write()
    assert request.output.decode() == (
        "Serial Number,Product Name,Input Image Urls,Output Image Urls\r\n"
        f'1,Lamp 1,"http://a/1,http://me:pass@a/2",",{request.url(2)}"\r\n'
        f"2,Lamp 2,http://a/3,{request.url(3)}\r\n"
    )
    assert request.report.decode() == (
        f"{REPORT_COLUMNS}\r\n"
        "1,1,Lamp 1,1,http://a/1,,failed,http_404,The origin answered with HTTP status 404.,404,"
        "1,,,,,,,\r\n"
        f"1,1,Lamp 1,2,http://***@a/2,{request.url(2)},succeeded,,,,1,1000,400,30,20,jpeg,82,"
        "More.\r\n"
        f"2,2,Lamp 2,1,http://a/3,{request.url(3)},succeeded,,,,1,1000,400,30,20,jpeg,82,"
        "More.\r\n"
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


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ("ss", "completed: 2 images succeeded, 0 failed"),
        ("fsf", "completed_with_errors: 1 images succeeded, 2 failed (http_404 2)"),
        ("fc", "failed: 0 images succeeded, 1 failed (http_404 1)"),
    ],
)
def test_the_log_tells_why_images_failed(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, ends: str, told: str
) -> None:
    """Nobody has to ask for the report to hear that none of the addresses may be fetched."""
    caplog.set_level(logging.INFO)
    products = [_product(n, f"http://a/{n}") for n in range(len(ends))]
    request = Finished(database, tmp_path, products, ends)
    request.write()
    assert caplog.messages == [f"{request.id} {told}"]


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ({}, ""),
        ({"cancelled": 3}, ""),
        ({"http_404": 1, "cancelled": 9, "timeout": 2}, " (timeout 2, http_404 1)"),
    ],
)
def test_the_most_frequent_reason_comes_first(codes: dict[str, int], told: str) -> None:
    """What was cancelled has not failed."""
    assert request_finisher._reasons(codes) == told


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
    _finisher(database, FolderStore(tmp_path)).finish("ab" * 16)
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


# --- Several finishers -----------------------------------------------------------------------


class Pauses:
    """The moments before each step of a finisher; in one of them something happens.

    Which one, is told by its number or by the name of its step.
    """

    def __init__(self, moment: int | str, meanwhile: Callable[[], None]) -> None:
        self.moment = moment
        self.meanwhile = meanwhile
        self.has_happened = False
        self._numbers = itertools.count()

    def __call__(self, step: str) -> None:
        """Come to the next moment."""
        if not self.has_happened and self.moment in {next(self._numbers), step}:
            self.has_happened = True
            with ThreadPoolExecutor(1) as thread:  # the store may be waiting for data in this one
                thread.submit(self.meanwhile).result()


class PausingDatabase(Database):
    """A database with a pause before each transaction."""

    def __init__(self, conninfo: str, pauses: Pauses) -> None:
        super().__init__(conninfo)
        self.pauses = pauses

    @contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[Cursor]:
        """Pause, then begin."""
        self.pauses("transaction")
        with super().transaction(seconds) as cursor:
            yield cursor


class PausingStore(FolderStore):
    """A store with a pause before each change of it, and amid a listing."""

    def __init__(self, folder: Path, pauses: Pauses) -> None:
        super().__init__(folder)
        self.pauses = pauses

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Pause, then put."""
        self.pauses("put the report" if "-report" in key else "put")
        super().put(key, data)

    def move(self, source: str, target: str) -> bool:
        """Pause, then move."""
        self.pauses("move a CSV" if source.startswith(STAGED_CSVS) else "move")
        return super().move(source, target)

    def delete(self, *keys: str) -> None:
        """Pause, then delete, one after the other."""
        for key in keys:
            self.pauses("delete")
            super().delete(key)

    def list_keys(self, folder: str, start: str = "") -> Iterator[str]:
        """Pause, list, pause."""
        self.pauses("list")
        keys = list(super().list_keys(folder, start))
        self.pauses("listed")
        return iter(keys)


class Rivals:
    """A request that two finishers are at: `other` is quick, and knows what may happen."""

    def __init__(self, database: Database, folder: Path) -> None:
        products = [_product(1, "http://a/1", "http://a/2"), _product(2, "http://a/3")]
        self.request = Finished(database, folder, products, "sfs")
        self.request.store.put(f"{STAGED_IMAGES}{self.request.id}-1.1.jpg", b"image")
        self.database = database
        self.other = _finisher(database, self.request.store)

    def pausing(self, pauses: Pauses) -> RequestFinisher:
        """Return a finisher that pauses."""
        database = PausingDatabase(self.database.conninfo, pauses)
        store = PausingStore(self.request.folder, pauses)
        return RequestFinisher(database, store, OutputFiles(database, store), lease_seconds=30)

    def end_lease(self) -> None:
        """Let whoever has taken the finish seem to be dead."""
        with self.database.transaction() as cursor:
            cursor.execute("update requests set lease_until = now() - interval '1 second'")

    def finish(self) -> None:
        """Let the other one finish instead."""
        self.end_lease()
        self.other.finish(self.request.id)

    def retry(self) -> None:
        """Let the failed image be tried again."""
        with self.database.transaction() as cursor:
            assert retry_request(cursor, self.request.id, after=0)

    def succeed(self) -> None:
        """Let it succeed now."""
        with self.database.transaction() as cursor:
            (image,) = claim_images(cursor, self.request.id, limit=9, lease_seconds=60)
            key: dict[str, Any] = {"request_id": image.request_id, "n": image.n}
            end = Outcome(**key, fence=image.fence, attempts=1, **_ending("s"))
            assert record_outcomes(cursor, [end]).finished

    def retry_and_succeed(self) -> None:
        """Let both happen; the request is to be finished."""
        self.retry()
        self.succeed()

    def retry_to_the_end(self) -> None:
        """Let the other one do that, too."""
        self.retry_and_succeed()
        self.other.finish(self.request.id)

    def delete(self) -> None:
        """Let the other one finish; then nothing of the request is left."""
        self.finish()
        with self.database.transaction() as cursor:
            assert delete_request(cursor, self.request.id)
        self.other.purge(self.request.id)

    def everything(self) -> list[Any]:
        """Return every row, table by table, and every file but what is staged."""
        statements = (
            "select * from requests order by id",
            "select * from images order by n",
            "select * from image_links order by row",
            "select * from deleted_requests order by id",
        )
        rows = []
        with self.database.transaction() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows.append([dict(row) for row in cursor.fetchall()])
        files = {
            str(path.relative_to(self.request.folder)): path.read_bytes()
            for path in self.request.folder.rglob("*")
            if path.is_file() and path.parent.name != ".staged"
        }
        return [*rows, files]


def _rivals(database: Database, folder: Path) -> Rivals:
    with database.transaction() as cursor:
        for table in ("requests", "images", "image_links", "deleted_requests"):
            cursor.execute(f"delete from {table}")  # noqa: S608  # our own names
    return Rivals(database, folder)


def _stop_everywhere(
    database: Database, tmp_path: Path, happen: Callable[[Rivals], None]
) -> Iterator[tuple[Rivals, list[Any]]]:
    """Stop a finisher before each of its steps in turn, each time with another request.

    Yield who else was there, and everything as it was when the first one went on.
    """
    for moment in itertools.count():
        rivals = _rivals(database, tmp_path / str(moment))
        before: list[Any] = []

        def meanwhile(rivals: Rivals = rivals, before: list[Any] = before) -> None:
            happen(rivals)
            before += rivals.everything()

        pauses = Pauses(moment, meanwhile)
        with suppress(ImageError):  # what it was just writing is gone
            rivals.pausing(pauses).finish(rivals.request.id)
        if not pauses.has_happened:
            assert moment > 15
            return
        yield rivals, before


def _assert_all_succeeded(request: Finished) -> None:
    """Hold files and cells of a request against what they must be after the retry."""
    urls = [request.url(n) for n in (1, 2, 3)]
    assert request.row["status"] == "completed"
    assert request.cells == [f"{urls[0]},{urls[1]}", urls[2]]
    lines = list(csv.DictReader(io.StringIO(request.output.decode(), newline="")))
    assert [line["Output Image Urls"] for line in lines] == request.cells
    lines = list(csv.DictReader(io.StringIO(request.report.decode(), newline="")))
    assert [line["output_url"] for line in lines] == urls


@pytest.mark.parametrize("happen", [Rivals.finish, Rivals.delete])
def test_who_finds_the_request_finished_by_another_changes_nothing(
    database: Database, tmp_path: Path, happen: Callable[[Rivals], None]
) -> None:
    """Wherever it was stopped: no row and no file; what it has staged is cleaned away."""
    for rivals, before in _stop_everywhere(database, tmp_path, happen):
        assert rivals.everything() == before
        rivals.other.clean()
        assert list((rivals.request.folder / STAGED_CSVS).iterdir()) == []
        assert rivals.everything() == before


@pytest.mark.parametrize("happen", [Rivals.retry, Rivals.retry_and_succeed])
def test_who_finds_the_request_retried_changes_no_row(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    happen: Callable[[Rivals], None],
) -> None:
    """Nor an output cell, also if all its images have ended anew; in the end the files are those
    of the retry.
    """
    monkeypatch.setattr(request_finisher, "PAGE", 1)
    has_begun = False
    for rivals, before in _stop_everywhere(database, tmp_path, happen):
        if has_begun or happen is Rivals.retry:
            assert rivals.everything()[:4] == before[:4]
        has_begun = True  # it was stopped before it had taken the finish, once
        if happen is Rivals.retry:
            rivals.succeed()
        rivals.other.finish(rivals.request.id)
        _assert_all_succeeded(rivals.request)


def test_who_lost_the_finish_writes_no_further_page(database: Database, tmp_path: Path) -> None:
    """What would take minutes for nothing ends with the next page."""
    rivals = _rivals(database, tmp_path)
    rivals.pausing(Pauses("put the report", rivals.finish)).finish(rivals.request.id)
    assert list((tmp_path / STAGED_CSVS).iterdir()) == []
    assert rivals.request.row["fence"] == 2


def test_a_request_whose_csv_is_not_there_is_not_finished(
    database: Database, tmp_path: Path
) -> None:
    """Whoever has deleted what was staged: the next one writes it again."""
    rivals = _rivals(database, tmp_path)

    def vanish() -> None:
        for path in (tmp_path / STAGED_CSVS).iterdir():
            path.unlink()

    rivals.pausing(Pauses("move a CSV", vanish)).finish(rivals.request.id)
    unfinished = rivals.request.row
    assert unfinished["finished_at"] is None
    rivals.finish()
    assert rivals.request.row["finished_at"]
    assert rivals.request.output


def test_who_finds_the_request_retried_and_finished_changes_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It puts nothing old over anything new, neither file nor cell."""
    monkeypatch.setattr(request_finisher, "PAGE", 1)
    for rivals, before in _stop_everywhere(database, tmp_path, Rivals.retry_to_the_end):
        assert rivals.everything() == before
        _assert_all_succeeded(rivals.request)


@pytest.mark.parametrize("moment", range(1, 9))
def test_who_was_slow_leaves_the_next_one_s_work_in_peace(
    database: Database, tmp_path: Path, moment: int
) -> None:
    """It goes on just when the next one is about to move its files in place, and that one ends."""
    rivals = _rivals(database, tmp_path)
    is_stopped, may_go_on = threading.Event(), threading.Event()

    def stop() -> None:
        is_stopped.set()
        may_go_on.wait(PATIENCE_SECONDS)

    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(rivals.pausing(Pauses(moment, stop)).finish, rivals.request.id)
        assert is_stopped.wait(PATIENCE_SECONDS)
        rivals.end_lease()

        def go_on() -> None:
            may_go_on.set()
            with suppress(ImageError):  # what it was just writing is gone
                slow.result(PATIENCE_SECONDS)

        rivals.pausing(Pauses("move a CSV", go_on)).finish(rivals.request.id)
    row = rivals.request.row
    assert (row["status"], row["fence"]) == ("completed_with_errors", 2)
    assert rivals.request.output
    assert rivals.request.report


@pytest.mark.parametrize("step", ["listed", "move", "put", "move a CSV"])
def test_a_store_that_fails_midway_leaves_the_finish_to_anyone(
    database: Database, tmp_path: Path, step: str
) -> None:
    """Nobody has to wait for the end of a lease, whichever step it was."""
    rivals = _rivals(database, tmp_path)
    with pytest.raises(ImageError):
        rivals.pausing(Pauses(step, _fail)).finish(rivals.request.id)
    row = rivals.request.row
    assert (row["status"], row["lease_until"], row["finished_at"]) == ("processing", None, None)
    rivals.other.finish(rivals.request.id)
    assert rivals.request.row["finished_at"]


def _fail() -> None:
    raise ImageError(ErrorCode.STORAGE_ERROR, "the disk is away")


# --- Cleaning and purging --------------------------------------------------------------------


def test_csvs_that_nobody_will_move_are_deleted(database: Database, tmp_path: Path) -> None:
    """Those of an older finish, of a finished request or a deleted one; not those of a finish
    under way, nor what is of another database.
    """
    running, done, gone = (
        Finished(database, tmp_path, [_product(1, "http://a/1")], "s") for _ in range(3)
    )
    for request in (done, gone):
        request.write()
    with database.transaction() as cursor:
        assert take_finish(cursor, running.id, lease_seconds=60)
        assert delete_request(cursor, gone.id)
    wanted = {f"{running.id}.1.csv", f"{running.id}-report.1.csv", f"{running.id}.1.csv#1"}
    wanted |= {f"{'ab' * 16}.1.csv", "notes.txt"}
    strays = {f"{running.id}.0.csv", f"{running.id}-report.0.csv#1", f"{done.id}.1.csv"}
    strays |= {f"{gone.id}-report.1.csv", f"{gone.id}.0.csv"}
    for name in wanted | strays:
        (tmp_path / STAGED_CSVS / name).write_text("half")
    for _ in range(2):
        _finisher(database, running.store).clean()
        assert {path.name for path in (tmp_path / STAGED_CSVS).iterdir()} == wanted


def test_cleaning_settles_what_is_staged(database: Database, tmp_path: Path) -> None:
    """An image whose worker died before the move is published, one that nobody names goes."""
    request = Finished(database, tmp_path, [_product(1, "http://a/1", "http://a/2")], "sf")
    for n in (1, 2):
        request.store.put(f"{STAGED_IMAGES}{request.id}-{n}.1.jpg", b"image")
    _finisher(database, request.store).clean()
    assert list((tmp_path / STAGED_IMAGES).iterdir()) == []
    published = [path.name for path in (tmp_path / "uploads" / request.id).iterdir()]
    assert published == [f"{request.id}-1.jpg"]


def test_a_purge_leaves_nothing_of_a_request_and_all_of_another(
    database: Database, tmp_path: Path
) -> None:
    """Files, staged and cut-off ones too, and rows; again, it finds nothing to do."""
    gone, kept = (
        Finished(database, tmp_path, [_product(1, "http://a/1", "http://a/2")], "sf")
        for _ in range(2)
    )
    for request in (gone, kept):
        request.store.put(f"uploads/{request.id}/{request.id}-1.jpg", b"image")
        request.write()
    finisher = _finisher(database, gone.store)
    finisher.purge(gone.id)  # which is not deleted yet
    assert gone.row["finished_at"]
    assert gone.output
    with database.transaction() as cursor:
        assert delete_request(cursor, gone.id)
    for name in (f"{STAGED_IMAGES}{gone.id}-2.1.jpg#1", f"{STAGED_CSVS}{gone.id}.1.csv"):
        (tmp_path / name).write_text("half")
    for _ in range(2):
        finisher.purge(gone.id)
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
            *(f"{kept.id}-1.jpg", f"{kept.id}.csv", f"{kept.id}-report.csv"),
        }
    assert not (tmp_path / "uploads" / gone.id).exists()
    with database.transaction() as cursor:
        cursor.execute("select request_id from images union select request_id from image_links")
        assert [row["request_id"] for row in cursor.fetchall()] == [kept.id]


def test_a_purge_that_breaks_off_is_begun_again(database: Database, tmp_path: Path) -> None:
    """Wherever it was stopped, the next one ends it: only then it counts as purged."""
    for moment in itertools.count():
        rivals = _rivals(database, tmp_path / str(moment))
        rivals.finish()
        with database.transaction() as cursor:
            assert delete_request(cursor, rivals.request.id)
        pauses = Pauses(moment, _fail)
        with suppress(ImageError):
            rivals.pausing(pauses).purge(rivals.request.id)
        (stone,) = rivals.everything()[3]
        assert (stone["purged_at"] is None) == pauses.has_happened
        rivals.other.purge(rivals.request.id)
        *rows, (stone,), files = rivals.everything()
        assert (rows, files) == ([[], [], []], {})
        assert stone["purged_at"]
        if not pauses.has_happened:
            assert moment > 5
            return
