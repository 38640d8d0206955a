"""CSVs that are refused, over HTTP: where, why, and with nothing left behind; and odd good ones."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

import pytest

from tests.service import CSV_HEADER, Service, assert_problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Database

URL = "http://10.0.0.1/a.jpg"  # valid, and never connected to
H = f"{CSV_HEADER}\r\n"
GOOD = f"1,Vase,{URL}\r\n"
SERIAL, NAME, URLS = CSV_HEADER.split(",")


@pytest.fixture(scope="module")
def service(
    module_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run HTTP alone: nothing here is worked on."""
    folder: Path = tmp_path_factory.mktemp("service")
    with Service(folder, module_database, "--no-worker") as running:
        yield running


Where = tuple[int, str | None, str]

REFUSED: dict[str, tuple[str | bytes, int, list[Where]]] = {
    "empty": ("", 422, [
        (1, None, "missing_header"), (1, None, "missing_header"), (1, None, "missing_header")]),
    "a missing header": ("Serial Number,Product Name\r\n1,Vase\r\n", 422, [
        (1, None, "missing_header")]),
    "a header behind blank lines": ("\r\n\r\nSerial Number,URLs\r\n", 422, [
        (3, None, "missing_header")]),
    "a doubled header": (f"Serial Number,Product Name,URLs,S. No.\r\n1,Vase,{URL},2\r\n", 422, [
        (1, "S. No.", "doubled_header")]),
    "both": ("Product Name,product name,URLs\r\n", 422, [
        (1, None, "missing_header"), (1, "product name", "doubled_header")]),
    "no product": (H, 422, [(1, None, "no_product")]),
    "only blank lines": (f"{H}\r\n , ,\r\n\r\n", 422, [(1, None, "no_product")]),
    "not decodable": (f"{H}{GOOD}2,V\xe4se,{URL}\r\n".encode("latin-1"), 400, [
        (3, NAME, "not_decodable")]),
    "half a UTF-16 character": (codecs.BOM_UTF16_LE + f"{H}{GOOD}2,Vase,{URL}".encode("utf-16-le")[:-1], 400, [
        (3, URLS, "not_decodable")]),
    "UTF-16 without a BOM": (f"{H}{GOOD}".encode("utf-16-le"), 400, [(1, None, "nul")] * 3),
    "an unclosed quote": (f'{H}{GOOD}2,"Vase,{URL}\r\n3,Bowl,{URL}\r\n', 400, [
        (3, None, "unclosed_quote")]),
    "a stray quote": (f'{H}1,"Va"se,{URL}\r\n', 400, [(2, None, "stray_quote")]),
    "NUL": (f"{H}{GOOD}2,Va\0se,{URL}\r\n", 400, [(3, NAME, "nul")]),
    "a field over 128 KiB": (f"{H}{GOOD}2,{'n' * 131_073},{URL}\r\n", 400, [
        (3, None, "field_too_large")]),
    "a field over 128 KiB of two-byte characters": (f"{H}1,{'ä' * 65_537},{URL}\r\n", 400, [
        (2, NAME, "field_too_large")]),
    "a serial number that is none": (f"{H}x,Vase,{URL}\r\n", 422, [
        (2, SERIAL, "invalid_serial_number")]),
    "a fraction": (f"{H}1.0,Vase,{URL}\r\n", 422, [(2, SERIAL, "invalid_serial_number")]),
    "a negative number": (f"{H}-1,Vase,{URL}\r\n", 422, [(2, SERIAL, "invalid_serial_number")]),
    "no serial number": (f"{H},Vase,{URL}\r\n", 422, [(2, SERIAL, "invalid_serial_number")]),
    "a serial number twice": (f"{H}{GOOD}2,Bowl,{URL}\r\n1,Mug,{URL}\r\n", 422, [
        (4, SERIAL, "duplicate_serial_number")]),
    "the same value in other digits": (f"{H}{GOOD}001,Mug,{URL}\r\n", 422, [
        (3, SERIAL, "duplicate_serial_number")]),
    "an empty name": (f"{H}1, ,{URL}\r\n", 422, [(2, NAME, "empty_product_name")]),
    "no URL": (f'{H}1,Vase,"  "\r\n', 422, [(2, URLS, "no_url")]),
    "only commas for URLs": (f'{H}1,Vase,", ,"\r\n', 422, [(2, URLS, "no_url")]),
    "a short row": (f"{H}1,Vase\r\n", 422, [(2, URLS, "no_url")]),
    "too many URLs": (f'{H}1,Vase,"{",".join([URL] * 101)}"\r\n', 422, [
        (2, URLS, "too_many_urls")]),
    "URLs that are not in quotes": (f"{H}1,Vase,{URL},{URL}\r\n", 422, [
        (2, None, "too_many_cells")]),
    "several at once, behind a quoted newline": (
        f'{H}1,"Vase\r\nwith\r\nhandles",{URL}\r\nx,,\r\n\r\n1,Mug,{URL}\r\n', 422, [
            (5, SERIAL, "invalid_serial_number"), (5, NAME, "empty_product_name"),
            (5, URLS, "no_url"), (7, SERIAL, "duplicate_serial_number")]),
    "semicolons": (f"{H.replace(',', ';')}x;Vase;{URL}\r\n", 422, [
        (2, SERIAL, "invalid_serial_number")]),
    "not a CSV at all": (bytes(range(256)) * 20, 400, []),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(service: Service, case: str) -> None:
    """A refusal tells line, column and code of everything that is wrong, and leaves nothing."""
    csv, status, expected = REFUSED[case]
    before = service.count_rows()
    problem = assert_problem(service.upload(csv), status)
    errors = problem["errors"]
    assert errors
    assert problem["errors_total"] >= len(errors)
    for error in errors:
        assert error.keys() == {"line", "column", "code", "detail"}
        assert error["detail"]
    found = [(error["line"], error["column"], error["code"]) for error in errors]
    assert found == expected or not expected
    assert service.count_rows() == before


def test_raw_body_is_refused_alike(service: Service) -> None:
    """A raw CSV gets the very same problem as one in a form."""
    headers = {"Content-Type": "text/csv"}
    for csv, _, _ in list(REFUSED.values())[1:8]:
        data = csv if isinstance(csv, bytes) else csv.encode()
        raw = service.request("POST", "/upload", data=data, headers=headers)
        assert raw.json() == service.upload(csv).json()


def test_first_hundred_errors_are_listed(service: Service) -> None:
    """Of many errors the first hundred are listed, and all are counted."""
    lines = [f"x{n},Product,{URL}" for n in range(150)]
    problem = assert_problem(service.upload(H + "\r\n".join(lines)), 422)
    assert problem["errors_total"] == 150
    assert [error["line"] for error in problem["errors"]] == list(range(2, 102))


def test_errors_of_two_kinds_are_in_order(service: Service) -> None:
    """Serial numbers that stand twice are found last, and listed at their lines."""
    lines = [f"x{n},Product,{URL}" for n in range(150)]
    lines[10] = f"7,Product,{URL}"
    lines[20] = f"7,Product,{URL}"
    problem = assert_problem(service.upload(H + "\r\n".join(lines)), 422)
    assert problem["errors_total"] == 149
    listed = [error["line"] for error in problem["errors"]]
    assert listed == [line for line in range(2, 103) if line != 12]
    assert problem["errors"][19]["code"] == "duplicate_serial_number"


def test_refusal_after_much_was_copied(service: Service) -> None:
    """An error on the last line undoes everything that was written before it."""
    before = service.count_rows()
    filler = "n" * 1000
    lines = [f"{n},{filler},{URL}" for n in range(1, 10_001)]  # several COPY batches
    problem = assert_problem(service.upload(H + "\r\n".join([*lines, "1,Again,"])), 422)
    found = [(error["line"], error["code"]) for error in problem["errors"]]
    assert found == [(10_002, "no_url"), (10_002, "duplicate_serial_number")]
    assert service.count_rows() == before


TAKEN: dict[str, tuple[str | bytes, int, int]] = {
    "a BOM": (codecs.BOM_UTF8 + f"{H}{GOOD}".encode(), 1, 1),
    "UTF-16, little end first": (codecs.BOM_UTF16_LE + f"{H}{GOOD}".encode("utf-16-le"), 1, 1),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE + f"{H}{GOOD}".encode("utf-16-be"), 1, 1),
    "semicolons": (f"{H}{GOOD}".replace(",", ";"), 1, 1),
    "tabs": (f"{H}{GOOD}".replace(",", "\t"), 1, 1),
    "LF": (f"{H}{GOOD}".replace("\r\n", "\n"), 1, 1),
    "no line end at the end": (f"{H}{GOOD}".rstrip(), 1, 1),
    "blank lines": (f"\r\n{H}\r\n,,\r\n{GOOD}\r\n \r\n", 1, 1),
    "other names": (f"s.no,PRODUCT NAME:,urls\n1,Vase,{URL}\n", 1, 1),
    "S. No.": (f"S. No.,Product Name,Input Image Urls\n1,Vase,{URL}\n", 1, 1),
    "Serial No": (f" Serial No. , product name ,input image URLs\n1,Vase,{URL}\n", 1, 1),
    "quoted newlines": (f'{H}1,"Vase\r\nand ""lid""",{URL}\r\n', 1, 1),
    "columns in another order": (f"URLs,Colour,Serial No,Product Name\r\n{URL},red,1,Vase\r\n", 1, 1),
    "many digits": (f"{H}{'9' * 5000},Vase,{URL}\r\n{'9' * 4999}8,Mug,{URL}\r\n", 2, 2),
    "a hundred URLs": (f'{H}1,Vase,"{",".join([URL] * 100)}"\r\n', 1, 100),
    "a field of 128 KiB": (f"{H}1,{'n' * 131_072},{URL}\r\n", 1, 1),
    "commas within URLs": (f'{H}1,Vase,"http://a/1,2.jpg,http://a/3,,http://a/4 , http://a/5,"\r\n', 1, 4),
    "URLs that can't be fetched": (f'{H}1,Vase,"ftp://a/b, nonsense, http://, http://a:0/"\r\n', 1, 4),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_taken(service: Service, case: str) -> None:
    """What shops' programs write is taken, and its products and images counted right."""
    csv, products, images = TAKEN[case]
    answer = service.upload(csv, {"dry_run": "true"})
    assert answer.status_code == 200, answer.text
    counts: dict[str, Any] = answer.json()
    assert (counts["products"], counts["images"]) == (products, images)
