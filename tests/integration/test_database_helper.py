"""The door to PostgreSQL: what goes in comes out, whole or not at all, through connections that
may die at any moment.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INTRANS,
    make_dsn,
    parse_dsn,
)

import database_helper
from csv_validator import ProductRow
from database_helper import (
    Database,
    DatabaseUnavailableError,
    UploadCounts,
    copy_products,
    insert_request,
    is_alive,
    select_images,
    select_request,
    select_requests,
)
from errors import SettingsError
from watched_connection import WatchedConnection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from database_helper import Cursor

ID = "ab" * 16
HOSTILE = [
    *["\\", "\\\\", r"\.", r"\N", r"\x41", "\\\t\\", "\t", "\n", "\r", "\r\n", " \n\\.\n "],
    *["'", '"', '""', "{}", "{a,b}", "NULL", "null", ",", ";", "%s", "%(id)s", "$1", "--", "/*"],
    *[
        "",
        " ",
        "\x01\x1f\x7f\x85\u2028",
        "größe",
        "日本語",
        "😀" * 3,
        "e\u0301",
        "\ufeff",
        "\u202e",
    ],
    *["'; drop table images; --", "a" * 100_000, "\\" * 5001],
]


def _product(text: str = "x", **fields: Any) -> ProductRow:
    """Make a product all of whose cells are `text`, but for those given."""
    product = ProductRow(2, text, text, text, None, [text])
    return product._replace(**fields)


def _upload(database: Database, products: Iterable[ProductRow], request_id: str = ID) -> None:
    with database.transaction() as cursor:
        counts = copy_products(cursor, request_id, products)
        insert_request(
            cursor,
            request_id,
            options={},
            columns=["a"],
            base_url="http://a",
            counts=counts,
            owner=None,
        )


def _rows(database: Database, statement: str, *values: Any) -> list[dict[str, Any]]:
    with database.transaction() as cursor:
        cursor.execute(statement, values)
        return [dict(row) for row in cursor.fetchall()]


def _cut_connections(database: Database) -> None:
    """End every connection to the database, as a restart of the server does."""
    connection = psycopg2.connect(make_dsn(database.conninfo, dbname="postgres"))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s",
            (parse_dsn(database.conninfo)["dbname"],),
        )
    connection.close()


@pytest.fixture
def small(database: Database) -> Iterator[Database]:
    """Give a door of two connections to the test's database."""
    small = Database(database.conninfo, max_connections=2)
    yield small
    small.close()


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


# --- COPY ------------------------------------------------------------------------------------


def test_hostile_text_is_kept_to_the_letter(database: Database) -> None:
    """Whatever a cell holds, COPY gives it back as it was, in fields and in arrays."""
    products = [
        _product(text, other_cells=[text, *HOSTILE, text], image_urls=[text, "", text])
        for text in HOSTILE
    ]
    _upload(database, products)
    links = _rows(database, "select * from image_links order by row")
    for row, (link, product) in enumerate(zip(links, products, strict=True), 1):
        assert link == {
            "request_id": ID,
            "row": row,
            "line": 2,
            "serial_number": product.serial_number,
            "product_name": product.product_name,
            "input_image_urls": product.input_image_urls,
            "other_cells": product.other_cells,
            "output_image_urls": None,
        }
    urls = [(url, place) for text in HOSTILE for place, url in enumerate((text, "", text), 1)]
    images = _rows(database, "select n, input_url, position from images order by n")
    assert [(image["input_url"], image["position"]) for image in images] == urls
    assert [image["n"] for image in images] == list(range(1, len(urls) + 1))


@pytest.mark.parametrize("cells", [None, [], [""], ["", ""], ["NULL"]])
def test_further_columns_may_be_none_or_empty(database: Database, cells: list[str] | None) -> None:
    """A file without further columns is told from one whose further cells are empty."""
    _upload(database, [_product(other_cells=cells)])
    assert _rows(database, "select other_cells from image_links")[0]["other_cells"] == cells


@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_batches_make_no_difference(
    database: Database, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However small the batches, numbers run on and every row is copied once."""
    monkeypatch.setattr(database_helper, "COPY_BATCH_CHARACTERS", size)
    products = [_product(f"{n}", image_urls=[f"u{n}"] * (n % 4)) for n in range(1, 31)]
    with database.transaction() as cursor:
        counts = copy_products(cursor, ID, iter(products))
    assert counts == UploadCounts(products=30, images=sum(n % 4 for n in range(1, 31)))
    links = _rows(database, "select row, serial_number from image_links order by row")
    assert [(link["row"], link["serial_number"]) for link in links] == [
        (n, str(n)) for n in range(1, 31)
    ]
    images = _rows(database, "select n, row, position, input_url from images order by n")
    places = [(n, place) for n in range(1, 31) for place in range(1, n % 4 + 1)]
    assert [tuple(image.values()) for image in images] == [
        (number, row, place, f"u{row}") for number, (row, place) in enumerate(places, 1)
    ]


def test_no_product_is_no_row(database: Database) -> None:
    """An empty upload copies nothing and says so."""
    with database.transaction() as cursor:
        assert copy_products(cursor, ID, []) == UploadCounts(products=0, images=0)


def test_a_refusal_midway_leaves_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last line of a file is bad, the batches before it are gone too."""
    monkeypatch.setattr(database_helper, "COPY_BATCH_CHARACTERS", 1)

    def products() -> Iterator[ProductRow]:
        yield _product()
        yield _product()
        raise ArithmeticError("line 4 is bad")

    with pytest.raises(ArithmeticError, match="line 4 is bad"):
        _upload(database, products())
    for table in ("image_links", "images", "requests"):
        assert _rows(database, f"select * from {table}") == []  # noqa: S608  # our own names
    _upload(database, [_product()])
    assert len(_rows(database, "select * from images")) == 1


# --- Connections -----------------------------------------------------------------------------


def test_a_transaction_commits_or_rolls_back(database: Database) -> None:
    """What a block did is there after it, and nothing of it after an exception."""

    def copy(*request_ids: str) -> None:
        with database.transaction() as cursor:
            for request_id in request_ids:
                copy_products(cursor, request_id, [_product()])

    copy("kept")
    with pytest.raises(psycopg2.IntegrityError):
        copy("lost", "kept")
    assert _rows(database, "select request_id from images") == [{"request_id": "kept"}]


def test_reading_takes_one_turn_with_the_server(database: Database) -> None:
    """No transaction is begun for it, and the next one is one all the same."""
    with database.reading() as cursor:
        cursor.execute("select pg_backend_pid() as pid")
        first = cursor.fetchone()
        assert cursor.connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    with database.transaction() as cursor:
        cursor.execute("select pg_backend_pid() as pid")
        assert cursor.fetchone() == {"pid": first and first["pid"]}
        assert cursor.connection.info.transaction_status == TRANSACTION_STATUS_INTRANS


def test_a_connection_is_used_again(small: Database) -> None:
    """One after the other, transactions share a connection, also after a failed one."""

    def pid() -> int:
        number: int = _rows(small, "select pg_backend_pid() as pid")[0]["pid"]
        return number

    first = pid()
    with pytest.raises(psycopg2.errors.UndefinedTable):
        _rows(small, "select * from nowhere")
    assert pid() == first


def test_connections_that_died_while_idle_are_replaced(database: Database) -> None:
    """After a restart of the server nobody is handed a dead connection."""
    with database.transaction() as one, database.transaction() as two:
        assert is_alive(one)
        assert is_alive(two)
    _cut_connections(database)
    with database.transaction() as one, database.transaction() as two:
        assert is_alive(one)
        assert is_alive(two)


@pytest.mark.parametrize("moment", ["statement", "copy", "commit"])
def test_a_connection_that_dies_under_way_is_told(database: Database, moment: str) -> None:
    """The caller hears that the database is away, nothing is kept, and the next one goes well."""

    def products() -> Iterator[ProductRow]:
        yield _product()
        _cut_connections(database)
        yield _product()

    def use(cursor: Cursor) -> None:
        if moment == "copy":
            copy_products(cursor, ID, products())
        else:
            copy_products(cursor, ID, [_product()])
            _cut_connections(database)
        if moment == "statement":
            is_alive(cursor)

    with pytest.raises(DatabaseUnavailableError), database.transaction() as cursor:
        use(cursor)
    assert _rows(database, "select * from images") == []


def test_a_transaction_that_stands_still_lets_go_of_its_locks(database: Database) -> None:
    """A process that was stopped holds up nobody, and hears of it when it goes on."""
    standing = Database(database.conninfo, stopped_seconds=0.1)
    overtaken = False

    def stand_still(cursor: Cursor) -> None:
        nonlocal overtaken
        copy_products(cursor, ID, [_product()])
        with database.transaction() as other:
            other.execute("lock table images in access exclusive mode")
        overtaken = True
        is_alive(cursor)

    with pytest.raises(DatabaseUnavailableError), standing.transaction() as cursor:
        stand_still(cursor)
    standing.close()
    assert overtaken
    assert _rows(database, "select * from images") == []


def test_a_transaction_may_ask_for_longer_pauses(database: Database) -> None:
    """Only this one may stand still so long."""
    standing = Database(database.conninfo, stopped_seconds=0.1)
    show = "select current_setting('idle_in_transaction_session_timeout') as pause"
    with standing.transaction() as cursor:
        cursor.allow_pauses(60)
        cursor.execute(show)
        assert cursor.fetchall() == [{"pause": "1min"}]
    assert _rows(standing, show) == [{"pause": "100ms"}]
    standing.close()


def test_a_server_that_became_read_only_is_left(small: Database) -> None:
    """After a failover the old primary still answers: the next transaction connects anew."""

    def write(*, read_only: bool) -> int:
        with small.transaction() as cursor:
            if read_only:
                cursor.execute("set transaction read only")
            copy_products(cursor, ID, [_product()])
            cursor.execute("select pg_backend_pid() as pid")
            row = cursor.fetchone()
        assert row
        return int(row["pid"])

    first: int = _rows(small, "select pg_backend_pid() as pid")[0]["pid"]
    with pytest.raises(DatabaseUnavailableError):
        write(read_only=True)
    assert write(read_only=False) != first


def test_more_threads_than_connections_wait_for_their_turn(small: Database) -> None:
    """A small pool serves many threads, never with more connections than it may have."""
    highest = 0
    lock = threading.Lock()
    inside = 0

    def work(_: int) -> None:
        nonlocal highest, inside
        with small.transaction() as cursor:
            with lock:
                inside += 1
                highest = max(highest, inside)
            cursor.execute("select pg_sleep(0.001)")
            with lock:
                inside -= 1

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(60)))
    assert highest == 2


def _is_alive(database: Database) -> bool:
    with database.transaction() as cursor:
        return is_alive(cursor)


def test_a_process_with_many_open_files_can_still_look_at_its_connections(
    small: Database,
) -> None:
    """A busy server has more than 1024 descriptors, which select() can't take."""
    pipes = [open("/dev/null", "rb") for _ in range(1100)]  # noqa: SIM115, PTH123
    try:
        assert _is_alive(small)
        assert _is_alive(small)
    finally:
        for pipe in pipes:
            pipe.close()


def test_a_server_that_is_away_is_told(database: Database) -> None:
    """No server, no database of that name: both may pass, and both are told the same way."""
    away = [
        Database(make_dsn(database.conninfo, host="/nowhere")),
        Database(make_dsn(database.conninfo, dbname="nothing")),
    ]
    for one in away:
        for _ in range(3):  # the place in the queue is given back
            with pytest.raises(DatabaseUnavailableError), one.transaction():
                pytest.fail("there is no connection")


@pytest.mark.parametrize(
    "conninfo",
    [
        "hunter2",
        "mysql://shop:hunter2@db/images",
        "postgresql://shop:hunter2%zz@db/images",
        "password=hunter2 hast=db",
    ],
)
def test_an_address_that_says_nothing_is_refused_without_being_shown(conninfo: str) -> None:
    """A bad DATABASE_URL is named with what it takes; the password in it stays a secret."""
    with pytest.raises(SettingsError, match="DATABASE_URL: takes ") as caught:
        Database(conninfo)
    assert "hunter2" not in caught.value.detail


def test_closing_keeps_what_is_under_way(small: Database) -> None:
    """A transaction that is open when the service stops goes on to its end."""
    with small.transaction() as cursor:
        _is_alive(small)
        small.close()
        copy_products(cursor, ID, [_product()])
    assert len(_rows(small, "select * from images")) == 1


# --- Reading ---------------------------------------------------------------------------------


def test_a_request_is_read_with_the_database_s_clock(database: Database) -> None:
    """Ages are told by the clock that wrote the times."""
    _upload(database, [_product()])
    with database.transaction() as cursor:
        request = select_request(cursor, ID)
        assert select_request(cursor, "cd" * 16) is None
    assert request
    assert timedelta() <= request["now"] - request["created_at"] < timedelta(minutes=1)
    assert (request["status"], request["products"], request["images"]) == ("pending", 1, 1)


def test_requests_are_paged_newest_first(database: Database) -> None:
    """Pages join without gap or overlap, also where requests came in the same moment."""
    ids = sorted((uuid.uuid4().hex for _ in range(7)), reverse=True)
    with database.transaction() as cursor:
        for place, request_id in enumerate(ids):
            cursor.execute(
                """insert into requests (id, options, columns, base_url, created_at, owner)
                   values (%s, '{}', '{}', 'http://a', now() - make_interval(hours => %s), %s)""",
                (request_id, place // 3, "me" if place % 2 else "you"),
            )
    seen, before = [], None
    with database.transaction() as cursor:
        while page := select_requests(cursor, limit=2, before=before, owner=None):
            seen += [row["id"] for row in page]
            before = (page[-1]["created_at"], page[-1]["id"])
        mine = select_requests(cursor, limit=100, before=None, owner="me")
    assert seen == ids
    assert [row["id"] for row in mine] == ids[1::2]


def test_images_are_paged_in_input_order(database: Database) -> None:
    """A page goes on behind a number, with the cells of each image's product, by state if asked."""
    _upload(database, [_product(f"{n}", image_urls=["u", "v"]) for n in range(1, 5)])
    _upload(database, [_product("other")], request_id="cd" * 16)
    with database.transaction() as cursor:
        cursor.execute("update images set state = 'failed' where n in (3, 8)")
        page, has_more = select_images(cursor, ID, state=None, after=2, limit=3)
        failed, _ = select_images(cursor, ID, state="failed", after=0, limit=100)
        rest, has_rest = select_images(cursor, ID, state="failed", after=3, limit=1)
    assert [(row["n"], row["serial_number"], row["position"]) for row in page] == [
        (3, "2", 1),
        (4, "2", 2),
        (5, "3", 1),
    ]
    assert [row["n"] for row in failed] == [3, 8]
    assert [row["n"] for row in rest] == [8]
    assert (has_more, has_rest) == (True, False)


@pytest.mark.parametrize(
    ("name", "url", "images", "rest"),
    [
        ("x" * 99, "u", [1], [2]),
        ("x" * 49, "u", [1, 2], [3, 4]),
        ("x", "u" * 99, [1], [2]),
        ("x", "u", [1, 2, 3, 4], []),
    ],
)
def test_a_page_ends_early_when_cells_are_long(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    url: str,
    images: list[int],
    rest: list[int],
) -> None:
    """Each image repeats its product's name, and a page may be of a thousand; one always comes."""
    monkeypatch.setattr(database_helper, "PAGE_BYTES", 100)
    _upload(database, [_product("1", product_name=name, image_urls=[url] * 4)])
    with database.transaction() as cursor:
        page, has_more = select_images(cursor, ID, state=None, after=0, limit=4)
        behind, _ = select_images(cursor, ID, state=None, after=len(images), limit=4)
    assert [row["n"] for row in page] == images
    assert [row["n"] for row in behind] == rest
    assert has_more == bool(rest)


def test_connection_lost_in_the_commit(
    clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of no kind, which is how libpq loses a connection in a commit, means that the
    database is away; the next transaction has a connection of its own.
    """

    def lose(connection: WatchedConnection) -> None:
        connection.close()
        raise psycopg2.DatabaseError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(WatchedConnection, "commit", lose)
        with pytest.raises(DatabaseUnavailableError), clean_database.transaction() as cursor:
            is_alive(cursor)
    with clean_database.transaction() as cursor:
        assert is_alive(cursor)
