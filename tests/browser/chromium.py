"""The system's Chromium under Playwright, which reaches loopback and nothing else.

Owns starting it and noting what a page complains of. What the page should do is for the tests.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Request

PATIENCE_MS = 30_000  # that only a fault reaches, however busy the machine
_ARGUMENTS = [
    "--no-sandbox",  # root, as in a container, has no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
]
_LOOPBACK = {"127.0.0.1", "localhost", None}  # data: and blob: have no host
_WORDS = {"error", "warning", "assert"}


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """Run a browser; its process ends with the block."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


class Complaints:
    """What the pages of a context complain of: errors, warnings, what is refused or fails.

    `allow` takes what a test expects, as a pattern.
    """

    def __init__(self, context: BrowserContext) -> None:
        self._heard: list[str] = []
        self._allowed: list[str] = []
        context.on("console", self._hear)
        context.on("weberror", lambda error: self._heard.append(f"uncaught: {error.error}"))
        context.on("requestfailed", self._fail)
        context.on("request", self._ask)

    def allow(self, pattern: str) -> None:
        """Let complaints pass that match somewhere."""
        self._allowed.append(pattern)

    @property
    def unexpected(self) -> list[str]:
        """What no test has allowed."""
        return [
            text
            for text in self._heard
            if not any(re.search(pattern, text) for pattern in self._allowed)
        ]

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in _WORDS:
            place: Any = message.location
            self._heard.append(f"{message.type}: {message.text} ({place.get('url')})")

    def _fail(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # what was left is not finished
            self._heard.append(f"failed: {request.url}: {request.failure}")

    def _ask(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in _LOOPBACK:
            self._heard.append(f"asked for: {request.url}")
