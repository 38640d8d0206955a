"""The whole job by the keyboard alone."""

from __future__ import annotations

import re
from threading import Event
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.steps import choose, compress, ends, is_loaded, shown_request
from tests.images import photo, saved
from tests.service import csv_of

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.chromium import Complaints
    from tests.origin import Origin

JPEG = saved(photo(), "JPEG", quality=95)
MOST_STOPS = 60
# What has the focus: its words, and whether one sees that it has.
_FOCUSED = """() => {
    const at = document.activeElement;
    const words = at.getAttribute("aria-label") || at.labels?.[0]?.innerText || at.innerText || at.id;
    const shapes = [at, ...["#drop", "#stage"].map((name) => at.closest(name))].filter(Boolean);
    const isSeen = shapes.some((shape) => {
        if (!shape.checkVisibility({ opacityProperty: true })) return false;
        const { outlineStyle: style, outlineWidth: width } = getComputedStyle(shape);
        return style === "solid" && parseFloat(width) >= 2;
    });
    return [words.trim().replace(/\\s+/g, " "), isSeen];
}"""


def focused(page: Page) -> str:
    """Return what has the focus, by its words; one has to see it."""
    words, is_seen = page.evaluate(_FOCUSED)
    assert is_seen, f"nobody sees that {words!r} has the focus"
    return str(words)


def tab_to(page: Page, words: str) -> list[str]:
    """Press Tab until what has these words has the focus; return the stops on the way."""
    stops: list[str] = []
    while not stops or not re.fullmatch(words, stops[-1]):
        assert len(stops) < MOST_STOPS, f"no way to {words!r}: {stops}"
        page.keyboard.press("Tab")
        stops.append(focused(page))
    return stops


def test_the_whole_job_needs_no_mouse(page: Page, module_origin: Origin, tmp_path: Path) -> None:
    """From choosing the file to its output, with Tab, Enter, Space and arrows."""
    gate = Event()
    urls = [module_origin.serve("/keys/0.jpg", JPEG)]
    urls.append(module_origin.serve("/keys/1.jpg", JPEG, until=gate))
    file = tmp_path / "spring.csv"
    file.write_text(csv_of(*urls))

    page.on("filechooser", lambda _: None)  # from now on, and not from some moment after the key
    assert tab_to(page, "Choose a CSV file") == ["CSV image compressor", "Choose a CSV file"]
    with page.expect_file_chooser() as asked:
        page.keyboard.press("Enter")
    asked.value.set_files(file)
    expect(page.locator("#check-title")).to_be_focused()
    expect(page.locator("#start")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    assert focused(page).startswith("Options:")
    page.keyboard.press("Space")
    tab_to(page, "Format")
    page.keyboard.type("WebP")
    assert tab_to(page, "Effort") == ["Quality", "Effort"]
    page.keyboard.press("ArrowUp")
    expect(page.locator("#options-chosen")).to_have_text("WebP, fast effort")
    tab_to(page, "Strict")
    page.keyboard.press("Space")  # the file is checked anew, and read aloud
    expect(page.locator("#check-title")).to_be_focused()
    expect(page.locator("#start")).to_be_visible()
    assert tab_to(page, "Compress .*") == ["Compress 2 images"]
    page.keyboard.press("Enter")

    shown_request(page)
    expect(page.locator("#request-title")).to_be_focused()
    expect(page.locator("#state")).to_contain_text("1 of 2")
    gate.set()
    ends(page)
    expect(page.locator("#gallery li.succeeded")).to_have_count(2)
    assert tab_to(page, "Output CSV") == ["Output CSV"]
    with page.expect_download() as started:
        page.keyboard.press("Enter")
    assert "Output Image Urls" in started.value.path().read_text("utf-8")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "All requests"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    tab_to(page, "Completed, 2 images, .*")
    page.keyboard.press("Enter")
    ends(page)


def test_images_are_compared_with_arrow_keys(page: Page, module_origin: Origin) -> None:
    """The slider has the focus once both are there; Escape leads back to where one was."""
    urls = [module_origin.serve(f"/arrows/{n}.jpg", JPEG) for n in range(2)]
    compress(page, csv_of(*urls))
    ends(page)
    stops = tab_to(page, "Compare Product 1, 0.jpg")
    assert stops == ["Output CSV", "Report CSV", "Delete", "Show", "Compare Product 1, 0.jpg"]
    page.keyboard.press("Enter")
    expect(page.locator("#split")).to_be_focused()
    is_loaded(page.locator("#before"))
    assert "original" in focused(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#split")).to_have_value("51")
    page.keyboard.press("Home")
    expect(page.locator("#split")).to_have_value("0")
    assert tab_to(page, "Next image") == ["Next image"]
    page.keyboard.press("Enter")
    expect(page.locator("#compare-title")).to_have_text("Product 2")
    is_loaded(page.locator("#before"))
    expect(page.locator("#compare-previous")).to_be_enabled()
    assert tab_to(page, "Actual size")[-1] == "Actual size"
    page.keyboard.press("Space")
    expect(page.locator("#actual")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#compare")).to_be_hidden()
    assert focused(page) == "Compare Product 1, 0.jpg"


def test_a_question_is_answered_by_keys(page: Page, module_origin: Origin) -> None:
    """What can't be undone is not what Enter does first; Escape changes nothing."""
    url = module_origin.serve("/keys/question.jpg", JPEG)
    compress(page, csv_of(url))
    ends(page)
    tab_to(page, "Delete")
    page.keyboard.press("Enter")
    assert focused(page) == "No, go back"
    page.keyboard.press("Escape")
    assert focused(page) == "Delete"
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert focused(page) == "Delete"
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "Delete for good"
    page.keyboard.press("Enter")
    expect(page.locator("#home")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_the_focus_is_never_lost_with_a_button(page: Page, module_origin: Origin) -> None:
    """Where what was pressed goes away, the focus goes on to the heading beside it."""
    first, second = Event(), Event()
    url = module_origin.serve("/keys/late.jpg", JPEG, until=first)
    other = module_origin.serve("/keys/later.jpg", b"", status=404, until=first)
    compress(page, csv_of(url, other))
    tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#cancel")).to_be_disabled()
    expect(page.locator("#request-title")).to_be_focused()
    first.set()
    ends(page, "Cancelled")
    module_origin.serve("/keys/later.jpg", JPEG, until=second)
    tab_to(page, "Run .* again")
    page.keyboard.press("Enter")
    expect(page.locator("#request-title")).to_have_text("Processing")
    expect(page.locator("#request-title")).to_be_focused()
    second.set()
    ends(page)


def test_a_list_of_problems_is_reached_by_tab(page: Page, complaints: Complaints) -> None:
    """A list that is too long to be seen whole is scrolled by keys, too."""
    complaints.allow("status of 422")
    rows = "".join(f"{n},,http://a/{n}.jpg\r\n" for n in range(100))
    choose(page, f"S. No.,Product Name,URLs\r\n{rows}")
    expect(page.locator("#problems li")).to_have_count(100)
    page.keyboard.press("Tab")
    expect(page.locator("#problems")).to_be_focused()
    focused(page)
    page.keyboard.press("End")
    expect(page.locator("#problems li").last).to_be_in_viewport()
