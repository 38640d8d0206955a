"""A dry run: what a CSV holds, and which of its URLs fail as they stand."""

from __future__ import annotations

import io

import pytest

from address_policy import AddressPolicy
from csv_problems import MAX_ERRORS_LISTED, CsvRefusedError
from csv_validator import CsvLimits, ProductReader
from dry_run import dry_run

LIMITS = CsvLimits(max_rows=1000, max_urls_per_row=10)
POLICY = AddressPolicy(allowed_sources=frozenset({"localhost:8000"}))


def reader(text: str) -> ProductReader:
    """Give the products of a CSV."""
    return ProductReader(io.BytesIO(text.encode()), LIMITS)


def test_what_fails_as_it_stands_is_told_with_its_line_and_column() -> None:
    """URLs that can't be read, and those that are never fetched from, are warned of."""
    found = dry_run(
        reader(
            "S. No.,Product Name,Pictures (URLs),URLs\n"
            '1,Vase,,"https://shop.example/a.jpg, ftp://shop.example/b.jpg"\n'
            '2,"Bowl\nand mug",,http://shop.example:8080/c.jpg\n'
            "3,Lamp,,http://localhost:8000/d.jpg\n"
            "4,Soap,,http://169.254.169.254/e.jpg\n"
        ),
        POLICY,
    )
    assert (found["dry_run"], found["products"], found["images"]) == (True, 4, 5)
    warnings = [(w["line"], w["column"], w["code"]) for w in found["warnings"]]
    assert warnings == [
        (2, "URLs", "invalid_url"),
        (3, "URLs", "blocked_address"),
        (6, "URLs", "blocked_address"),
    ]
    assert "'ftp://shop.example/b.jpg': " in found["warnings"][0]["detail"]
    assert found["warnings_total"] == 3


def test_warnings_are_counted_beyond_those_listed() -> None:
    """A file full of them is answered with the first hundred and their number."""
    rows = "".join(f"{n},Vase,nowhere {n}\n" for n in range(1, 301))
    found = dry_run(reader("Serial Number,Product Name,URLs\n" + rows), POLICY)
    assert len(found["warnings"]) == MAX_ERRORS_LISTED
    assert found["warnings_total"] == found["images"] == 300


def test_what_refuses_the_file_refuses_its_dry_run() -> None:
    """A wrong row is no warning."""
    with pytest.raises(CsvRefusedError):
        dry_run(reader("S. No.,Product Name,URLs\nx,Vase,nowhere\n"), POLICY)
