"""The whole job on the page, by mouse, in a real browser."""

from __future__ import annotations

import csv
import io
import re
from threading import Event
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.steps import compress, ends, is_loaded, shown_request
from tests.images import photo, saved
from tests.service import csv_of

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.chromium import Complaints
    from tests.origin import Origin
    from tests.service import Service

JPEG = saved(photo(), "JPEG", quality=95)


def downloaded(page: Page, link: str) -> list[dict[str, str]]:
    """Click a link and return the rows of the CSV that comes down."""
    with page.expect_download() as started:
        page.get_by_role("link", name=link).click()
    text = started.value.path().read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_samples_are_one_click_away(page: Page, service: Service) -> None:
    """Whoever has no CSV tries the samples, and gets a CSV with an output for each."""
    page.get_by_role("button", name="Try it with sample pictures").click()
    expect(page.locator("#check-title")).to_contain_text("test.csv")
    expect(page.locator("#check-result")).to_have_text(
        "8 products with 13 images. Every line is in order."
    )
    page.get_by_role("button", name="Compress 13 images").click()
    ends(page)
    expect(page.locator("#state")).to_contain_text("13 images succeeded")
    rows = downloaded(page, "Output CSV")
    urls = [url for row in rows for url in row["Output Image Urls"].split(",")]
    assert len(urls) == 13
    assert {service.get(url.removeprefix(service.url)).status_code for url in urls} == {200}
    assert len(downloaded(page, "Report CSV")) == 13


def test_a_file_goes_through_the_whole_job(
    page: Page, service: Service, module_origin: Origin, tmp_path: Path
) -> None:
    """Chosen, checked, with options, followed while it runs, looked at, and found again."""
    gate = Event()
    urls = [module_origin.serve(f"/main/{n}.jpg", JPEG) for n in range(3)]
    urls.append(module_origin.serve("/main/late.jpg", JPEG, until=gate))
    file = tmp_path / "spring.csv"
    file.write_text(csv_of(*urls))
    before = service.count_rows()

    with page.expect_file_chooser() as asked:
        page.get_by_text("Choose a CSV file").click()
    asked.value.set_files(file)
    expect(page.locator("#check-title")).to_contain_text("spring.csv")
    expect(page.locator("#check-result")).to_have_text(
        "4 products with 4 images. Every line is in order."
    )
    assert service.count_rows() == before

    page.get_by_text("Options:").click()
    page.get_by_label("Format").select_option("WebP")
    page.get_by_label("Quality").fill("70")
    page.get_by_label("Effort").select_option("Fast")
    expect(page.locator("#options-chosen")).to_have_text("WebP, quality 70, fast effort")
    page.get_by_role("button", name="Compress 4 images").click()

    request_id = shown_request(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Processing")
    expect(page.locator("#state")).to_contain_text("3 of 4 images")
    expect(page.locator("#bar")).to_have_js_property("value", value=3)
    expect(page).to_have_title("75.0\u202f% – CSV image compressor")
    expect(page.locator("#gallery li.succeeded")).to_have_count(3)
    expect(page.locator("#gallery li:not(.succeeded)")).to_contain_text("Being worked on")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_role("link", name="Output CSV")).to_be_hidden()
    gate.set()

    ends(page)
    expect(page.locator("#request-made")).to_contain_text("WebP, quality 70, fast effort")
    expect(page.locator("#gallery li.succeeded")).to_have_count(4)
    is_loaded(page.locator("#gallery img").last)
    rows = downloaded(page, "Output CSV")
    assert [row["Output Image Urls"].rpartition("/")[2] for row in rows] == [
        f"{request_id}-{n}.webp" for n in (1, 2, 3, 4)
    ]

    page.get_by_role("link", name="All requests").click()
    link = page.get_by_role("link", name="Completed").first
    expect(page.locator("#requests li").first).to_contain_text("4 images")
    link.click()
    ends(page)
    assert shown_request(page) == request_id


def test_before_and_after_are_compared_by_a_slider(page: Page) -> None:
    """The slider is drawn with the mouse; the original is asked for only then."""
    page.get_by_role("button", name="Try it").click()
    page.locator("#start").click()
    ends(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Compare Blue glazed vase").click()
    is_loaded(page.locator("#before"))
    is_loaded(page.locator("#after"))
    assert any(url.endswith("/samples/vase.jpg") for url in asked)
    stage = page.locator("#stage")
    box = stage.bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=4)
    page.mouse.up()
    split = float(page.locator("#split").input_value())
    assert 75 <= split <= 85
    clipped = page.locator("#before").evaluate("image => getComputedStyle(image).clipPath")
    assert f"{100 - split:g}%" in clipped
    page.get_by_role("button", name="Next image").click()
    expect(page.locator("#compare-title")).to_have_text("Stoneware bowl and mug")
    page.get_by_role("button", name="Actual size").click()
    expect(stage).to_have_css(
        "width", page.locator("#after").evaluate("i => `${i.naturalWidth}px`")
    )
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#compare")).to_be_hidden()
    expect(page.locator("#before")).not_to_have_attribute("src", re.compile(""))


def test_an_original_that_is_gone_is_said_to_be(
    page: Page, module_origin: Origin, complaints: Complaints
) -> None:
    """The compressed image is shown alone, with the reason."""
    url = module_origin.serve("/main/gone.jpg", JPEG)
    complaints.allow("gone.jpg")
    compress(page, csv_of(url))
    ends(page)
    module_origin.serve("/main/gone.jpg", b"no", status=404)
    page.get_by_role("button", name="Compare Product 1").click()
    expect(page.locator("#compare-trouble")).to_contain_text("The original can’t be shown")
    is_loaded(page.locator("#after"))
    expect(page.locator("#split")).to_be_hidden()


def test_a_file_is_dropped_on_the_page(page: Page, module_origin: Origin) -> None:
    """Dropped onto the form it is checked; anywhere else it opens nothing either."""
    url = module_origin.serve("/main/dropped.jpg", JPEG)
    drop(page, csv_of(url), "dropped.csv")
    expect(page.locator("#check-title")).to_contain_text("dropped.csv")
    page.locator("#start").click()
    ends(page)
    assert drop(page, csv_of(url), "other.csv") is True
    expect(page.get_by_role("heading", level=1)).to_have_text("Completed")


def drop(page: Page, text: str, name: str) -> bool:
    """Drag a file over the page and drop it; tell whether the browser was kept from opening it."""
    files = page.evaluate_handle(
        """([text, name]) => {
            const moved = new DataTransfer();
            moved.items.add(new File([text], name, { type: "text/csv" }));
            return moved;
        }""",
        [text, name],
    )
    target = page.locator("main:not([hidden])")
    for event in ("dragenter", "dragover"):
        target.dispatch_event(event, {"dataTransfer": files})
    is_home = page.locator("#home").is_visible()
    assert ("over" in (page.locator("#drop").get_attribute("class") or "")) is is_home
    is_kept: bool = target.evaluate(
        """(target, dataTransfer) => !target.dispatchEvent(
            new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }))""",
        files,
    )
    assert "over" not in (page.locator("#drop").get_attribute("class") or "")
    return is_kept
