"""100,000 images in a request: the page asks for what it shows, and holds no more."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.large_request import end, small_image, upload

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from tests.browser.chromium import Complaints
    from tests.service import Service

IMAGES = 100_000
ENDED = 60_000
PAGE_IMAGES = 48
NEAR_IMAGES = 35  # of a page, those within some screens of what is seen
MOST_NODES = 1_200  # of the whole page with its cards
MOST_GROWTH_BYTES = 2_000_000  # of the heap over many pages
PAGES = 50
_TURN = """async (times) => {
    for (let turned = 0; turned < times; turned += 1) {
        await new Promise((resolve) => {
            const seen = new MutationObserver(() => { seen.disconnect(); resolve(); });
            seen.observe(document.getElementById("range"), { childList: true });
            document.getElementById("next").click();
        });
    }
}"""


@pytest.fixture(scope="module")
def service_arguments() -> tuple[str, ...]:
    """Have the service fetch nothing."""
    return ("--no-worker",)


@pytest.fixture(scope="module")
def request_id(service: Service) -> str:
    """Return the id of a request that is partly done."""
    uploaded = upload(service, IMAGES)
    end(service, uploaded, ENDED)
    return uploaded


@pytest.fixture
def asked(page: Page, request_id: str) -> Counter[str]:
    """Show the request; count from the first what is asked for, by kind."""
    counts: Counter[str] = Counter()
    kinds = {"status": r"/status/\w+", "images": r"/status/\w+/images", "files": r"/uploads/.*"}

    def count(url: str) -> None:
        path = urlsplit(url).path
        found = [kind for kind, pattern in kinds.items() if re.fullmatch(pattern, path)]
        counts[found[0] if found else path] += 1

    page.on("request", lambda request: count(request.url))
    page.route("**/uploads/**", small_image)
    page.evaluate("id => { location.hash = id; }", request_id)
    expect(page.locator("#gallery li")).to_have_count(PAGE_IMAGES)
    return counts


def shows(page: Page, first: int, last: int, whole: str = " of 100,000") -> None:
    """Wait until the images from the first to the last are shown; cards and words agree."""
    expect(page.locator("#range")).to_have_text(f"Images {first:,} to {last:,}{whole}")
    expect(page.locator("#gallery li")).to_have_count(last - first + 1)


def rows(page: Page) -> list[int]:
    """Return the rows of the images that are shown."""
    texts = page.locator("#gallery .where").all_inner_texts()
    return [int(re.sub(r"\D", "", text.partition(":")[0])) for text in texts]


def test_no_more_is_asked_for_than_is_shown(page: Page, asked: Counter[str]) -> None:
    """One status, one page of images, and the pictures near what is seen."""
    shows(page, 1, PAGE_IMAGES)
    page.wait_for_load_state("networkidle")
    assert asked["images"] == 1
    assert asked["status"] <= 2  # a slow machine sees the second look
    assert 0 < asked["files"] <= NEAR_IMAGES
    assert set(asked) <= {"status", "images", "files", "/web/icon.svg"}
    assert page.evaluate("document.querySelectorAll('*').length") < MOST_NODES


def test_pages_are_turned_and_jumped_to(page: Page, asked: Counter[str]) -> None:
    """First, previous, next and any number, right at both ends."""
    first, previous, next_page = (
        page.locator(f"#{each}") for each in ("first", "previous", "next")
    )
    expect(first).to_be_hidden()
    expect(previous).to_be_hidden()
    next_page.click()
    shows(page, 49, 96)
    expect(page.locator("#images-title")).to_be_in_viewport()
    next_page.click()
    shows(page, 97, 144)
    assert rows(page) == list(range(97, 145))
    previous.click()
    shows(page, 49, 96)
    page.get_by_label("From image").fill("99990")
    page.get_by_role("button", name="Go").click()
    shows(page, 99_990, 100_000)
    assert rows(page) == list(range(99_990, 100_001))
    expect(next_page).to_be_hidden()
    previous.click()
    shows(page, 99_942, 99_989)
    next_page.click()
    shows(page, 99_990, 100_000)
    expect(page.locator("#images-title")).to_be_focused()  # the button is gone
    first.click()
    shows(page, 1, PAGE_IMAGES)
    page.get_by_label("From image").fill("2")
    page.keyboard.press("Enter")
    shows(page, 2, 49)
    previous.click()
    shows(page, 1, 48)
    page.get_by_label("From image").fill("100001")
    page.keyboard.press("Enter")
    assert not page.get_by_label("From image").evaluate("field => field.checkValidity()")
    shows(page, 1, 48)


def test_impatient_presses_lose_nobody(page: Page, asked: Counter[str]) -> None:
    """However fast pages are turned, the numbers are those of the images below."""
    page.evaluate(
        "() => { for (let n = 0; n < 5; n += 1) document.getElementById('next').click(); }"
    )
    expect(page.locator("#range")).not_to_contain_text("Images 1 to")
    page.wait_for_load_state("networkidle")
    shown = re.findall(r"[\d,]+", page.locator("#range").inner_text())
    assert rows(page)[0] == int(shown[0].replace(",", ""))


def test_a_filter_has_its_own_pages(page: Page, asked: Counter[str]) -> None:
    """From its own beginning to its own end."""
    page.locator("#filter").select_option("state=failed")
    shows(page, 1, 48, "")
    assert rows(page) == list(range(10, 481, 10))
    page.locator("#next").click()
    shows(page, 49, 96, "")
    assert rows(page)[0] == 490
    page.locator("#filter").select_option("state=cancelled")
    expect(page.locator("#range")).to_have_text("There are none.")
    expect(page.locator("#gallery li")).to_have_count(0)
    page.get_by_role("button", name=re.compile("Show 6,000 images")).click()
    shows(page, 1, 48, "")
    page.get_by_label("From image").fill("50000")
    page.get_by_role("button", name="Go").click()
    shows(page, 50_000, 50_047)
    expect(page.locator("#filter")).to_have_value("")


def test_comparing_goes_on_over_the_end_of_a_page(
    page: Page, asked: Counter[str], complaints: Complaints
) -> None:
    """The next image of the last one is the first of the next page."""
    complaints.allow("http://a.example/")
    page.route("http://a.example/**", small_image)
    page.get_by_label("From image").fill("1")
    page.locator("#gallery button").last.click()
    expect(page.locator("#compare-title")).to_have_text("Product 48")
    page.get_by_role("button", name="Next image").click()
    expect(page.locator("#compare-title")).to_have_text("Product 49")
    shows(page, 49, 96)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#compare")).to_be_hidden()
    expect(page.locator("#images-title")).to_be_focused()  # what was pressed is gone


def test_many_pages_leave_nothing_behind(
    context: BrowserContext, page: Page, asked: Counter[str]
) -> None:
    """Neither elements nor memory grow."""
    wire = context.new_cdp_session(page)

    def held() -> tuple[int, int]:
        wire.send("HeapProfiler.collectGarbage")
        counts = wire.send("Memory.getDOMCounters")
        return counts["nodes"], wire.send("Runtime.getHeapUsage")["usedSize"]

    page.evaluate(_TURN, 5)
    nodes, heap = held()
    page.evaluate(_TURN, PAGES)
    shows(page, (PAGES + 5) * PAGE_IMAGES + 1, (PAGES + 6) * PAGE_IMAGES)
    nodes_after, heap_after = held()
    assert nodes_after < 1.5 * nodes
    assert heap_after < heap + MOST_GROWTH_BYTES
    assert page.evaluate("document.querySelectorAll('*').length") < MOST_NODES


def test_progress_goes_on_without_a_flicker(
    page: Page, service: Service, request_id: str, asked: Counter[str]
) -> None:
    """What has not changed is left as it is: the picture that was there is the one that is."""
    page.get_by_label("From image").fill("69980")
    page.get_by_role("button", name="Go").click()
    shows(page, 69_980, 70_027)
    end(service, request_id, 70_000)
    expect(page.locator("#state")).to_contain_text("70,000 of 100,000 images")
    expect(page.locator("#gallery li.succeeded")).to_have_count(18)
    page.locator("#gallery li").first.evaluate("card => { card.isTheSame = true; }")
    asked.clear()
    end(service, request_id, 70_010)
    expect(page.locator("#state")).to_have_text(
        re.compile(r"70,010 of 100,000 images · [\d.]+ images a second · about \d+ \w+ left")
    )
    expect(page.locator("#gallery li.succeeded")).to_have_count(27)
    assert page.locator("#gallery li").first.evaluate("card => card.isTheSame")
    assert asked["images"] <= asked["status"] + 1  # of a status that was on its way before
