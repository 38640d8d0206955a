"""What people do on the page again and again, and what they see then."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Locator, Page


def choose(page: Page, csv: str | bytes, name: str = "products.csv") -> None:
    """Choose a file of these contents; it is checked at once."""
    content = csv.encode() if isinstance(csv, str) else csv
    file: FilePayload = {"name": name, "mimeType": "text/csv", "buffer": content}
    page.locator("#file").set_input_files(file)


def compress(page: Page, csv: str | bytes) -> str:
    """Choose a file and let it be worked on; return the request's id."""
    choose(page, csv)
    page.locator("#start").click()
    return shown_request(page)


def shown_request(page: Page) -> str:
    """Wait until a request is shown; return its id."""
    expect(page.locator("#found")).to_be_visible()
    return page.url.partition("#")[2]


def ends(page: Page, title: str = "Completed") -> None:
    """Wait until the request that is shown has ended so."""
    expect(page.locator("#request-title")).to_have_text(title)
    expect(page.locator("#delete")).to_be_visible()


def places(page: Page) -> list[tuple[str, str]]:
    """Return where the problems are, each with the line of the file that is shown below it."""
    expect(page.locator("#check-result")).to_have_text(re.compile("wrong|fetched"))
    expect(page.locator("#problems li").first).to_be_visible()
    texts = [text.partition("\n") for text in page.locator("#problems li").all_inner_texts()]
    return [(what.partition(":")[0], line) for what, _, line in texts]


def is_loaded(picture: Locator) -> None:
    """Wait until a picture is there, and not only its frame."""
    expect(picture).to_have_js_property("complete", value=True)
    assert picture.evaluate("image => image.naturalWidth") > 0
