"""The page's modules without the page: words, and lines of a file. Tables in, texts out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.service import Service

THIN = "\u202f"


@pytest.fixture(scope="module")
def page(browser: Browser, service: Service) -> Page:
    """Open the page once: nothing here changes it."""
    opened = browser.new_page()
    opened.goto(service.url)
    return opened


def call(page: Page, module: str, name: str, *arguments: Any) -> Any:
    """Return what an exported function of a module says."""
    return page.evaluate(
        "async ([module, name, values]) => (await import(`/web/${module}.js`))[name](...values)",
        [module, name, list(arguments)],
    )


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("bytes", [None], "–"),
        ("bytes", [0], f"0{THIN}B"),
        ("bytes", [999], f"999{THIN}B"),
        ("bytes", [1000], f"1.0{THIN}kB"),
        ("bytes", [99_949], f"99.9{THIN}kB"),
        ("bytes", [99_950], f"100{THIN}kB"),
        ("bytes", [999_499], f"999{THIN}kB"),
        ("bytes", [999_500], f"1.0{THIN}MB"),
        ("bytes", [2.5e15], f"2500{THIN}TB"),
        ("saved", [200, 50], f"75.0{THIN}% saved"),
        ("saved", [200, 200], f"0.0{THIN}% saved"),
        ("saved", [200, 250], f"25.0{THIN}% larger"),
        ("saved", [0, 0], "–"),
        ("saved", [200, None], "–"),
        ("plural", [1, "image"], "1 image"),
        ("plural", [0, "image"], "0 images"),
        ("plural", [1_234_567, "image"], "1,234,567 images"),
        ("duration", [0], "1 second"),
        ("duration", [0.2], "1 second"),
        ("duration", [89], "89 seconds"),
        ("duration", [90], "2 minutes"),
        ("duration", [5400], "2 hours"),
        ("duration", [129_600], "2 days"),
        ("capital", ["completed with errors"], "Completed with errors"),
        ("fileName", ["http://a.example/b/c.jpg?d=/e#f/g"], "c.jpg"),
        ("fileName", ["http://a.example/b/"], "b"),
        ("fileName", ["/"], "/"),
        ("formatName", ["webp"], "WebP"),
        ("formatName", ["jpeg"], "JPEG"),
        ("chosen", [{"format": "keep", "quality": "auto", "priority": "normal"}], ""),
        ("chosen", [{"format": "webp", "max_width": 800}], "WebP, at most 800 pixels wide"),
        ("chosen", [{"quality": "", "max_bytes": "50000"}], f"at most 50.0{THIN}kB each"),
        ("chosen", [{"strict": True, "webhook_url": "https://a/"}], "strict, webhook"),
        ("chosen", [{"strict": False, "webhook_url": None}], ""),
    ],
)
def test_words(page: Page, name: str, arguments: list[Any], said: str) -> None:
    """Numbers have their units and every state its words."""
    assert call(page, "words", name, *arguments) == said


@pytest.mark.parametrize(
    ("code", "title"),
    [
        ("http_404", "Not found (HTTP 404)"),
        ("http_403", "Not allowed (HTTP 403)"),
        ("http_503", "The host failed (HTTP 503)"),
        ("http_418", "The host gave no image (HTTP 418)"),
        ("dns_error", "The host has no address"),
        ("one_of_tomorrow", "One of tomorrow"),
    ],
)
def test_reasons(page: Page, code: str, title: str) -> None:
    """Each code is put in plain words, also one that the page doesn't know."""
    assert call(page, "words", "reason", code)["title"] == title


@pytest.mark.parametrize(
    ("pieces", "numbers", "found"),
    [
        (["a\nb\nc"], [1, 3], {"1": "a", "3": "c"}),
        (["a\r", "\nb\r", "c"], [2, 3], {"2": "b", "3": "c"}),
        (["a\r\rb"], [2, 3], {"2": "", "3": "b"}),
        (["a\n"], [1, 2, 3], {"1": "a", "2": ""}),
        (["ü" * 300], [1], {"1": "ü" * 200 + "…"}),
        (["a\u2028b\nc"], [1], {"1": "a\u2028b"}),
        (["x" * 2_000_000, "\nb"], [1, 2], {"1": "x" * 200 + "…"}),
        (["a"], [], {}),
    ],
)
def test_lines(page: Page, pieces: list[str], numbers: list[int], found: dict[str, str]) -> None:
    """Lines are counted as the service does, wherever the pieces of the file end."""
    lines = page.evaluate(
        """async ([pieces, numbers]) => {
            const { readLines } = await import("/web/csv-lines.js");
            const encoder = new TextEncoder();
            const whole = encoder.encode(pieces.join(""));
            const file = {
                slice: (from, to) => ({ arrayBuffer: async () => whole.slice(from, to).buffer }),
                stream: () => new ReadableStream({
                    start(controller) {
                        for (const piece of pieces) controller.enqueue(encoder.encode(piece));
                        controller.close();
                    },
                }),
            };
            return Object.fromEntries(await readLines(file, numbers));
        }""",
        [pieces, numbers],
    )
    assert lines == found


def test_without_javascript_the_page_says_so(browser: Browser, service: Service) -> None:
    """And names another way."""
    context = browser.new_context(base_url=service.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    expect(page.locator("noscript p")).to_be_visible()
    context.close()
