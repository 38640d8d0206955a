"""What tests of the page share: a browser for each file, a page for each test.

A page that complains of anything that its test doesn't allow fails it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import PATIENCE_MS, Complaints, chromium
from tests.outside_tools import browser_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.service import Service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium for a file of tests: Playwright's loop would be in the way of others."""
    with chromium(browser_program()) as running:
        yield running


@pytest.fixture
def options() -> dict[str, object]:
    """Say what is special about the browser's window; for tests to say otherwise."""
    return {}


@pytest.fixture
def context(
    browser: Browser, service: Service, options: dict[str, object]
) -> Iterator[BrowserContext]:
    """Give a window of its own, without anything of others."""
    usual = {"base_url": service.url, "locale": "en-GB", "timezone_id": "UTC"}
    opened = browser.new_context(**usual | options)  # type: ignore[arg-type]
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


@pytest.fixture
def complaints(context: BrowserContext) -> Iterator[Complaints]:
    """Note what pages complain of; fail the test for what it doesn't allow."""
    noted = Complaints(context)
    yield noted
    assert noted.unexpected == []


@pytest.fixture
def page(context: BrowserContext, complaints: Complaints) -> Page:
    """Open the page."""
    opened = context.new_page()
    opened.goto("/")
    return opened
