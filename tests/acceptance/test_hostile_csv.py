"""CSVs that are made to do harm, over HTTP: each has its answer, and the server stays as it was."""

from __future__ import annotations

import codecs
import gzip
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.service import CSV_HEADER, Service, assert_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database

URL = "http://10.0.0.1/a.jpg"  # valid, and never connected to
H = f"{CSV_HEADER}\n"
GOOD = f"{H}1,Vase,{URL}\n"
MIB = 2**20
MOST_GROWTH_MIB = 32  # of the server's memory over a file of 100 MiB
WIDE_BOM = codecs.BOM_UTF16_LE


@pytest.fixture(scope="module")
def service(
    module_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run HTTP alone: nothing here is worked on."""
    with Service(tmp_path_factory.mktemp("service"), module_database, "--no-worker") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def wide(text: str) -> bytes:
    """Return a text in UTF-16, little end first, without a mark."""
    return text.encode("utf-16-le", "surrogatepass")


REFUSED: dict[str, tuple[str | bytes, int, set[str]]] = {
    "a million commas in a cell": (f'{H}1,Vase,"{"," * 1_000_000}"', 400, {"field_too_large"}),
    "as many commas as a cell may have": (f'{H}1,Vase,"{"," * 131_000}"', 422, {"no_url"}),
    "as many URLs as a cell may have": (f'{H}1,Vase,"{",h://" * 26_000}"', 422, {"too_many_urls"}),
    "a line without an end": (H + "x" * 5 * MIB, 400, {"row_too_long"}),
    "nothing but quotes": ('"' * 5 * MIB, 400, {"row_too_long"}),
    "quotes behind a header": (f"{H}1," + '"' * 5 * MIB, 400, {"row_too_long"}),
    "a quoted newline bomb": (f'{H}1,"' + "\n" * MIB, 400, {"field_too_large"}),
    "a hundred thousand stray quotes": (H + '"a"b\n' * 100_000, 400, {"stray_quote"}),
    "a hundred thousand short rows": (H + "x\n" * 100_000, 422, {
        "invalid_serial_number", "empty_product_name", "no_url"}),
    "a hundred thousand columns": (H.strip() + ",x" * 100_000, 422, {"too_many_columns"}),
    "serial numbers of zeros": (f"{H}{'0' * 100_000}1,a,{URL}\n{'0' * 99_999}1,b,{URL}", 422, {
        "duplicate_serial_number"}),
    "digits that are not ASCII": (f"{H}\u0661,Vase,{URL}", 422, {"invalid_serial_number"}),
    "a mark and nothing else": (codecs.BOM_UTF8, 422, {"missing_header"}),
    "a UTF-16 mark and nothing else": (WIDE_BOM, 422, {"missing_header"}),
    "UTF-16 of an odd length": (WIDE_BOM + wide(GOOD) + b"2", 400, {"not_decodable"}),
    "UTF-32": (GOOD.encode("utf-32"), 400, {"nul"}),
    "UTF-32, big end first": (codecs.BOM_UTF32_BE + GOOD.encode("utf-32-be"), 400, {"nul"}),
    "half a surrogate pair in UTF-8": (f"{H}1,\ud800,{URL}".encode("utf-8", "surrogatepass"), 400, {
        "not_decodable"}),
    "half a surrogate pair in UTF-16": (WIDE_BOM + wide(f"{H}1,\ud800,{URL}"), 400, {"not_decodable"}),
    "half a surrogate pair in the header": (WIDE_BOM + wide(f"\udc00,{GOOD}"), 400, {"not_decodable"}),
    "several encodings": (f"{GOOD}2,Väse,{URL}\n".encode() + "3,Väse,x\n".encode("latin-1") + wide("4,a,b\n"), 400, {
        "not_decodable", "nul"}),
    "gzip": (gzip.compress(GOOD.encode() * 100, mtime=0), 400, {"nul"}),
    "a workbook": (b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0" + bytes(range(256)) * 40, 400, set()),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(service: Service, case: str) -> None:
    """Bombs and broken encodings are refused for what they are, and leave nothing."""
    csv, status, codes = REFUSED[case]
    before = service.count_rows()
    problem = assert_problem(service.upload(csv), status)
    assert {error["code"] for error in problem["errors"]} == codes or not codes
    assert service.count_rows() == before


TAKEN: dict[str, str | bytes] = {
    "a million commas behind the cells": f"{H}1,Vase,{URL}{',' * 1_000_000}",
    "a million blank lines": H + "\n" * 1_000_000 + f"1,Vase,{URL}",
    "a serial number of 100,000 digits": f"{H}{'9' * 100_000},Vase,{URL}",
    "characters that turn the text around": f"{H}1,\u202eesaV\u2066\u200b\ufeff,http://a/\u202egpj.a",
    "characters without a width in the header": f"\u200b{GOOD}",
    "a second mark": codecs.BOM_UTF8 * 2 + GOOD.encode(),
    "formulas for headers and cells": f"=Serial Number,+Product Name,@URLs,-x,=1+1\n1,=1+1,{URL},@a,-1",
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(service: Service, case: str) -> None:
    """What is only odd is one product, validated and stored."""
    csv = TAKEN[case]
    assert service.upload(csv, {"dry_run": "true"}).json()["products"] == 1
    answer = service.upload(csv)
    assert (answer.status_code, answer.json()["images"]) == (202, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("content", [b"x", b'"', b"\0"])
def test_lines_of_100_mib_take_no_memory(service: Service, content: bytes) -> None:
    """A file that is one line is spooled, and read no further than a row may go."""
    with tempfile.TemporaryFile() as file:
        for _ in range(100):
            file.write(content * MIB)
        file.seek(0)
        before = _most_memory_mib(service)
        answer = service.request("POST", "/upload", data=file, headers={"Content-Type": "text/csv"})
    assert assert_problem(answer, 400)["errors"][0]["code"] == "row_too_long"
    assert _most_memory_mib(service) < before + MOST_GROWTH_MIB


def _most_memory_mib(service: Service) -> float:
    """Return the most memory that the server ever had in use."""
    status = Path(f"/proc/{service.process.pid}/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024
