"""Take the README's pictures of the page: `make screenshots`.

Starts a service of its own on a free port, lets the samples be compressed in the system's Chromium
and writes `docs/pictures/page-*.webp`.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from playwright.sync_api import expect

from tests.browser.chromium import chromium
from tests.browser.steps import ends, is_loaded
from tests.outside_tools import BROWSERS
from tests.service import ROOT, Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

PICTURES = ROOT / "docs" / "pictures"
MOST_BYTES = 60_000
DESK: dict[str, Any] = {"viewport": {"width": 1000, "height": 760}, "color_scheme": "light"}
TALL: ViewportSize = {"width": 1000, "height": 905}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "color_scheme": "dark",
    "device_scale_factor": 1.5,
}


def main() -> None:
    """Take all pictures."""
    argparse.ArgumentParser(
        description="Takes the README's pictures of the page, docs/pictures/page-*.webp, from a "
        "service of its own in the system's Chromium."
    ).parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        sys.exit(f"no browser is here: none of {', '.join(BROWSERS)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = str(folder / "postgres")
        service = stack.enter_context(Service(folder, None, POSTGRES_DIR=postgres))
        browser = stack.enter_context(chromium(program))
        desk = opened(browser, service.url, DESK)
        check_samples(desk)
        taken(desk, "form")
        desk.locator("#start").click()
        ends(desk)
        expect(desk.locator("#gallery li.succeeded")).to_have_count(13)
        for picture in desk.locator("#gallery img").all():
            picture.scroll_into_view_if_needed()
            is_loaded(picture)
        desk.set_viewport_size(TALL)
        desk.evaluate("() => window.scrollTo(0, 0)")
        taken(desk, "gallery")
        desk.set_viewport_size(DESK["viewport"])
        compare(desk)
        taken(desk, "compare")
        phone = opened(browser, desk.url, PHONE)
        expect(phone.locator("#gallery li.succeeded")).to_have_count(13)
        is_loaded(phone.locator("#gallery img").first)
        taken(phone, "phone")


def opened(browser: Browser, url: str, window: dict[str, Any]) -> Page:
    """Open the page in a window."""
    page = browser.new_context(locale="en-GB", reduced_motion="reduce", **window).new_page()
    page.goto(url)
    return page


def check_samples(page: Page) -> None:
    """Choose the samples, and have them checked."""
    page.locator("#sample").click()
    expect(page.locator("#start")).to_be_visible()
    page.evaluate("() => document.activeElement.blur()")


def compare(page: Page) -> None:
    """Compare a photo, half of it before and half after."""
    page.get_by_role("button", name="Compare Oranges, 1 kg").click()
    is_loaded(page.locator("#after"))
    is_loaded(page.locator("#before"))


def taken(page: Page, name: str) -> None:
    """Write what the window shows, as small as it may be."""
    image = Image.open(io.BytesIO(page.screenshot()))
    target = PICTURES / f"page-{name}.webp"
    image.convert("RGB").save(target, quality=84, method=6)
    size = target.stat().st_size
    print(f"{target.relative_to(ROOT)}: {image.width} x {image.height}, {size} bytes")
    if size > MOST_BYTES:
        sys.exit(f"{target.name} is over {MOST_BYTES} bytes")


if __name__ == "__main__":
    main()
