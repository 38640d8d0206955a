"""The web page on a request of very many images, in the system's Chromium.

    .venv/bin/python benchmarks/page.py [--images N] [--seconds N]

The ends of images are written straight into the database, some each half second, while the page is
scrolled up and down; there is no worker, so that nothing else is measured, and a picture is
answered by a small one of ours. Reported: until the page shows its images; what it asks for; its
elements and heap; frames while it is scrolled, and tasks over 50 ms, which one feels. Without a
display or a graphics processor frames are drawn by the processor, so they are fewer than elsewhere.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command_help import HelpFormatter  # noqa: E402
from database_helper import Database  # noqa: E402
from embedded_postgres import EmbeddedPostgres  # noqa: E402
from tests.browser.chromium import chromium  # noqa: E402
from tests.browser.large_request import end, small_image, upload  # noqa: E402
from tests.outside_tools import BROWSERS  # noqa: E402
from tests.service import Service  # noqa: E402  # the path is set first

if TYPE_CHECKING:
    from playwright.sync_api import Page

STEP_IMAGES = 500  # that end each half second
STEP_SECONDS = 0.5
AHEAD_IMAGES = 5_000  # of those that end first: what is shown changes, and is asked for again
_WATCH = """() => {
    window.frames_seen = []; window.long_tasks = [];
    const note = (time) => { window.frames_seen.push(time); requestAnimationFrame(note); };
    requestAnimationFrame(note);
    new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) window.long_tasks.push(duration);
    }).observe({ entryTypes: ["longtask"] });
}"""
_SCROLL = """(end) => new Promise((resolve) => {
    let way = 40;
    const step = () => {
        const before = scrollY;
        scrollBy(0, way);
        if (scrollY === before) way = -way;
        if (performance.now() < end) requestAnimationFrame(step); else resolve();
    };
    step();
})"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="in the request")
    parser.add_argument("--seconds", type=float, default=10.0, help="of scrolling")
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        sys.exit(f"no browser is here: none of {', '.join(BROWSERS)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        database = Database(postgres.start())
        stack.callback(database.close)
        service = stack.enter_context(Service(folder, database, "--no-worker"))
        browser = stack.enter_context(chromium(program))
        measure(browser.new_page(), service, arguments.images, arguments.seconds)


def measure(page: Page, service: Service, images: int, seconds: float) -> None:
    """Show a request, scroll it while it goes on, and print what that took."""
    request_id = upload(service, images)
    done = images // 2
    end(service, request_id, done)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/uploads/**", small_image)
    page.goto(service.url)
    began = time.perf_counter()
    page.evaluate("id => { location.hash = id; }", request_id)
    expect(page.locator("#gallery li").first).to_be_visible()
    print(f"{images:,} images: the first are shown after {time.perf_counter() - began:.2f} s")
    page.evaluate(_WATCH)
    page.locator("#from").fill(str(min(images, done + AHEAD_IMAGES)))
    page.locator("#places button").click()
    asked.clear()
    page.evaluate(
        f"() => {{ window.scrolled = ({_SCROLL})(performance.now() + {seconds * 1000}); }}"
    )
    for _ in range(int(seconds / STEP_SECONDS)):
        done = min(images, done + STEP_IMAGES)
        end(service, request_id, done)
        page.wait_for_timeout(1000 * STEP_SECONDS)
    page.evaluate("() => window.scrolled")
    report(page, asked)


def report(page: Page, asked: list[str]) -> None:
    """Print what was seen since the watch began."""
    kinds = {"statuses": "/status/", "pages of images": "/images?", "pictures": "/uploads/"}
    counts = {
        name: sum(part in url and (name != "statuses" or "/images?" not in url) for url in asked)
        for name, part in kinds.items()
    }
    print("asked for:", ", ".join(f"{count} {name}" for name, count in counts.items()))
    nodes = page.evaluate("() => document.querySelectorAll('*').length")
    heap = page.evaluate("() => performance.memory.usedJSHeapSize")
    print(f"elements: {nodes}; heap: {heap / 1e6:.1f} MB")
    times: list[float] = page.evaluate("() => window.frames_seen")
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    worst, late = gaps[-1], gaps[int(0.99 * len(gaps))]
    rate = 1000 * len(gaps) / (times[-1] - times[0])
    print(f"frames: {rate:.0f} a second; 99 % within {late:.0f} ms, the longest {worst:.0f} ms")
    tasks: list[float] = page.evaluate("() => window.long_tasks")
    print(f"tasks over 50 ms: {len(tasks)}, the longest {max(tasks, default=0):.0f} ms")


if __name__ == "__main__":
    main()
