"""A service with API keys: the page asks for one, and keeps it as long as the tab is open."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.steps import choose, compress, ends, is_loaded
from tests.images import photo, saved
from tests.service import csv_of

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from tests.browser.chromium import Complaints
    from tests.origin import Origin

KEY = "the-key-of-the-shop"
JPEG = saved(photo(), "JPEG", quality=95)


@pytest.fixture(scope="module")
def service_settings() -> dict[str, str]:
    """Have the service need a key."""
    return {"API_KEYS": hashlib.sha256(KEY.encode()).hexdigest()}


def enter(page: Page, key: str) -> None:
    """Type a key and use it."""
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use it").click()


def test_a_key_is_asked_for_and_kept(
    context: BrowserContext, page: Page, module_origin: Origin, complaints: Complaints
) -> None:
    """With it the whole job goes on as ever; a new tab asks anew."""
    complaints.allow("status of 401")
    expect(page.get_by_label("API key")).to_be_focused()
    expect(page.locator("#no-requests")).to_have_text("The service needs an API key.")
    enter(page, "another")
    expect(page.locator("#no-requests")).to_have_text("The service doesn’t know this API key.")
    enter(page, KEY)
    expect(page.locator("#no-requests")).to_have_text("None yet.")
    compress(page, csv_of(module_origin.serve("/keys.jpg", JPEG)))
    ends(page)
    is_loaded(page.locator("#gallery img"))
    with page.expect_download() as started:
        page.get_by_role("link", name="Output CSV").click()
    assert ".jpg" in started.value.path().read_text("utf-8")
    page.reload()
    ends(page)
    other = context.new_page()
    other.goto(page.url)
    expect(other.locator("#trouble")).to_have_text("The service needs an API key.")
    enter(other, KEY)
    ends(other)
    assert KEY not in page.url
    assert page.evaluate("Object.keys(localStorage)") == []


def test_a_file_that_was_chosen_before_the_key_is_checked_with_it(
    page: Page, module_origin: Origin, complaints: Complaints
) -> None:
    """It need not be chosen again."""
    complaints.allow("status of 401")
    choose(page, csv_of(module_origin.url("/keys.jpg")))
    expect(page.locator("#check-result")).to_have_text("The service needs an API key.")
    enter(page, KEY)
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#start")).to_have_text("Compress 1 image")
