"""A file that can't be taken, or not wholly: each problem stands beside the file's own line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.steps import choose, places, shown_request
from tests.service import CSV_HEADER, Service, csv_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Page

    from tests.browser.chromium import Complaints

LINES = [CSV_HEADER, "1,Vase,http://a.example/ü.jpg", "x,Bowl,http://a.example/2.jpg"]
TEXT = "\n".join(LINES)
GOOD = csv_of("http://a.example/1.jpg")


@pytest.fixture(scope="module")
def service_arguments() -> tuple[str, ...]:
    """Have the service fetch nothing."""
    return ("--no-worker",)


@pytest.fixture(autouse=True)
def _refusals_are_expected(complaints: Complaints) -> None:
    complaints.allow("status of 4(00|13|22)")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TEXT.encode(), id="UTF-8"),
        pytest.param(TEXT.encode("utf-8-sig"), id="UTF-8 with a byte order mark"),
        pytest.param(b"\xff\xfe" + TEXT.encode("utf-16-le"), id="UTF-16 little endian"),
        pytest.param(b"\xfe\xff" + TEXT.encode("utf-16-be"), id="UTF-16 big endian"),
        pytest.param("\r\n".join(LINES).encode(), id="CR LF"),
        pytest.param("\r".join(LINES).encode(), id="CR"),
    ],
)
def test_a_problem_stands_beside_its_line(page: Page, service: Service, content: bytes) -> None:
    """However the file is written; and nothing is begun."""
    before = service.count_rows()
    choose(page, content, "bad.csv")
    assert places(page) == [("Line 3, Serial Number", LINES[2])]
    expect(page.locator("#check-title")).to_have_text("bad.csv can’t be taken")
    expect(page.locator("#check-result")).to_have_text(
        "One thing is wrong, and nothing was begun. Mend the file, and choose it again:"
    )
    expect(page.locator("#start")).to_be_hidden()
    assert service.count_rows() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            f'{CSV_HEADER}\n1,"Vase,\nblue",http://a/1.jpg\n2,,http://a/2.jpg\n',
            [("Line 4, Product Name", "2,,http://a/2.jpg")],
            id="quoted newline before",
        ),
        pytest.param(
            f'{CSV_HEADER}\n1,"Vase,\nblue",\n',
            [("Line 2, Input Image Urls", '1,"Vase,')],
            id="quoted newline within",
        ),
        pytest.param(
            f"{CSV_HEADER}\nx,,http://a/1.jpg\n",
            [("Line 2, Serial Number", ""), ("Line 2, Product Name", "x,,http://a/1.jpg")],
            id="two problems of one line",
        ),
        pytest.param(
            f"{CSV_HEADER}\nx,{'long' * 600_000},http://a/1.jpg\n",
            [("Line 2", f"x,{'long' * 50}"[:200] + "…")],
            id="huge line",
        ),
        pytest.param(
            "Name,Pictures\nVase,http://a/1.jpg\n",
            [("Line 1", ""), ("Line 1", ""), ("Line 1", "Name,Pictures")],
            id="no header",
        ),
        pytest.param("", [("Line 1", ""), ("Line 1", ""), ("Line 1", "")], id="empty file"),
    ],
)
def test_the_line_shown_is_where_the_row_begins(
    page: Page, text: str, expected: list[tuple[str, str]]
) -> None:
    """Lines are counted as a text editor does; one that is too long is cut."""
    choose(page, text)
    assert places(page) == expected


def test_of_many_problems_the_first_hundred_are_shown(page: Page) -> None:
    """The rest are counted."""
    rows = "".join(f"{n},,http://a/{n}.jpg\r\n" for n in range(1, 251))
    choose(page, f"{CSV_HEADER}\r\n{rows}")
    found = places(page)
    assert len(found) == 101
    assert found[99] == ("Line 101, Product Name", "100,,http://a/100.jpg")
    assert found[100] == ("and 150 more", "")
    expect(page.locator("#check-result")).to_contain_text("250 things are wrong")


def test_urls_that_fail_as_they_stand_are_warned_of(page: Page, service: Service) -> None:
    """The file can be taken all the same; a strict one can't."""
    before = service.count_rows()
    choose(page, csv_of("ftp://a.example/1.jpg", "http://10.0.0.1/x.jpg", "http://a.example/1.jpg"))
    assert places(page) == [
        ("Line 2, Input Image Urls", '1,Product 1,"ftp://a.example/1.jpg"'),
        ("Line 3, Input Image Urls", '2,Product 2,"http://10.0.0.1/x.jpg"'),
    ]
    expect(page.locator("#check-result")).to_have_text(
        "3 products with 3 images. 2 of the URLs can’t be fetched as they stand:"
    )
    expect(page.locator("#start")).to_have_text("Compress 3 images")
    page.get_by_text("Options:").click()
    page.get_by_label("Strict").check()
    expect(page.locator("#check-result")).to_contain_text("One thing is wrong")
    expect(page.locator("#start")).to_be_hidden()
    page.get_by_label("Strict").uncheck()
    expect(page.locator("#start")).to_be_visible()
    assert service.count_rows() == before


def test_a_refused_option_is_checked_again_when_it_is_mended(page: Page) -> None:
    """What the service says of an option is shown; no further press is needed after the change."""
    page.get_by_text("Options:").click()
    page.get_by_label("Webhook").fill("http://127.0.0.1/hook")
    choose(page, GOOD)
    expect(page.locator("#check-result")).to_contain_text("webhook")
    expect(page.locator("#start")).to_be_hidden()
    expect(page.locator("#again")).to_be_visible()
    page.get_by_label("Webhook").fill("")
    page.get_by_label("Webhook").blur()
    expect(page.locator("#start")).to_be_visible()


def test_an_option_out_of_range_is_pointed_at(page: Page, service: Service) -> None:
    """Also where the options are folded away."""
    choose(page, GOOD)
    expect(page.locator("#start")).to_be_visible()
    before = service.count_rows()
    page.get_by_text("Options:").click()
    page.get_by_label("Quality").fill("500")
    page.get_by_text("Options:").click()
    expect(page.get_by_label("Quality")).to_be_hidden()
    page.locator("#start").click()
    expect(page.get_by_label("Quality")).to_be_visible()
    expect(page.get_by_label("Quality")).to_be_focused()
    assert service.count_rows() == before


def test_a_mended_file_of_the_same_name_is_chosen_again(page: Page, tmp_path: Path) -> None:
    """The same file can be chosen twice."""
    file = tmp_path / "spring.csv"
    for text, words in [(TEXT, "can’t be taken"), (GOOD, "spring.csv, ")]:
        file.write_text(text, "utf-8")
        page.locator("#file").set_input_files(file)
        expect(page.locator("#check-title")).to_contain_text(words)
    page.locator("#start").click()
    shown_request(page)


def test_a_file_that_is_gone_is_to_be_chosen_again(
    page: Page, complaints: Complaints, tmp_path: Path
) -> None:
    """A browser doesn't read it any more: that is said, and not that the service is away."""
    complaints.allow("ERR_UPLOAD_FILE_CHANGED|ERR_FILE_NOT_FOUND")
    file = tmp_path / "spring.csv"
    file.write_text(GOOD)
    page.locator("#file").set_input_files(file)
    expect(page.locator("#start")).to_be_visible()
    file.unlink()
    page.locator("#start").click()
    expect(page.locator("#check-result")).to_have_text(
        "The file was changed or moved after it was chosen: choose it again."
    )
    expect(page.locator("#start")).to_be_hidden()


def test_a_large_file_is_sent_with_progress(page: Page, context: BrowserContext) -> None:
    """Over a slow line one sees how much of it has gone; another file may be chosen meanwhile."""
    wire = context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2_000_000}
    wire.send("Network.emulateNetworkConditions", slow)
    rows = "".join(f"{n},Product {n},http://a.example/{n}.jpg\r\n" for n in range(100_000))
    choose(page, f"{CSV_HEADER}\r\n{rows}", "large.csv")
    expect(page.locator("#sent")).to_be_visible()
    wait_until(lambda: page.locator("#sent").evaluate("bar => bar.value") > 0.2)
    with page.expect_event("requestfailed"):  # what is no more wanted is sent no further
        choose(page, GOOD, "small.csv")
    expect(page.locator("#check-title")).to_contain_text("small.csv, ")
    expect(page.locator("#start")).to_have_text("Compress 1 image")
    expect(page.locator("#sent")).to_be_hidden()
