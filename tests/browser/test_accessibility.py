"""The page judged by axe-core in every state, in both schemes, on a desk and on a phone."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.steps import choose, ends, is_loaded, shown_request
from tests.images import photo, saved
from tests.outside_tools import npm_file
from tests.service import CSV_HEADER, csv_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.chromium import Complaints
    from tests.origin import Origin

JPEG = saved(photo(), "JPEG", quality=95)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
NARROWEST = 320  # CSS pixels without scrolling sideways: WCAG 1.4.10
LEAST_TARGET = 24  # CSS pixels of what is pressed: WCAG 2.5.8
REFUSED = f"{CSV_HEADER}\r\nx,,http://a/1.jpg\r\n2,Bowl,\r\n"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_JUDGE = """async (rules) => {
    const { violations } = await axe.run(document, {
        runOnly: rules, resultTypes: ["violations"], rules: { "target-size": { enabled: true } } });
    return violations.flatMap(({ id, nodes }) =>
        nodes.map(({ target, failureSummary }) => [id, target.join(" "), failureSummary]));
}"""
_SMALL = """(least) => [...document.querySelectorAll("a, button, input, select, summary, label.button")]
    .filter((each) => each.checkVisibility() && each.getClientRects().length)
    .filter((each) => !each.closest("p:not(.actions)") || each.matches(".button, input, select"))
    .map((each) => [each.id || each.innerText, each.getBoundingClientRect()])
    .filter(([, box]) => box.width < least || box.height < least)
    .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""


class Judge:
    """Looks at the page as it stands, under the name of its state."""

    def __init__(self, page: Page, axe: str) -> None:
        self._page = page
        self._axe = axe

    def __call__(self, state: str) -> None:
        """Fail for any violation, for what is too small to press, and for scrolling sideways."""
        page = self._page
        if not page.evaluate("'axe' in window"):
            page.evaluate(self._axe)
        found: list[Any] = page.evaluate(_JUDGE, list(RULES))
        assert found == [], state
        assert page.evaluate(_SMALL, LEAST_TARGET) == [], state
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
        assert page.evaluate("document.getAnimations().length") == 0, state  # nothing moves


@pytest.fixture(scope="module")
def axe() -> str:
    """Return the source of axe-core."""
    return npm_file("axe-core/axe.min.js").read_text("utf-8")


@pytest.fixture(
    params=[
        pytest.param({"color_scheme": "light", "viewport": DESK}, id="light, desk"),
        pytest.param({"color_scheme": "dark", "viewport": DESK}, id="dark, desk"),
        pytest.param({"color_scheme": "light", "viewport": PHONE}, id="light, phone"),
        pytest.param({"color_scheme": "dark", "viewport": PHONE}, id="dark, phone"),
        pytest.param({"forced_colors": "active", "viewport": DESK}, id="forced colours"),
        pytest.param({"viewport": {"width": NARROWEST, "height": 568}}, id="narrowest"),
    ]
)
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    """Say how the page is looked at."""
    chosen: dict[str, object] = request.param
    return {"reduced_motion": "reduce", **chosen}


def test_no_state_has_a_violation(
    page: Page, axe: str, module_origin: Origin, complaints: Complaints
) -> None:
    """Empty, refused, warned of, running, done with failures, comparing, asking, gone."""
    complaints.allow("status of 4(04|22)")
    judge = Judge(page, axe)
    gate = Event()
    urls = [module_origin.serve(f"/axe/{n}.jpg", JPEG) for n in range(3)]
    urls += [module_origin.serve("/axe/late.jpg", JPEG, until=gate)]
    urls += [module_origin.url("/axe/none.jpg"), "http://10.0.0.1/blocked.jpg"]

    judge("empty")
    choose(page, REFUSED, "a-file-with-a-very-long-name-that-has-no-place-to-be-broken-at.csv")
    expect(page.locator("#problems li")).to_have_count(3)
    judge("refused")
    choose(page, csv_of(*urls))
    expect(page.locator("#problems li")).to_have_count(1)
    judge("warned of")
    page.locator("#options summary").click()
    judge("options open")
    page.locator("#start").click()
    shown_request(page)
    expect(page.locator("#state")).to_contain_text("5 of 6")
    expect(page.locator("#gallery li")).to_have_count(6)
    judge("running")
    page.locator("#cancel").click()
    judge("asking")
    page.keyboard.press("Escape")
    gate.set()
    ends(page, "Completed with errors")
    is_loaded(page.locator("#gallery img").first)
    judge("done with failures")
    page.locator("#gallery button").first.click()
    is_loaded(page.locator("#before"))
    expect(page.locator("#split")).to_be_focused()
    judge("comparing")
    page.locator("#actual").click()
    judge("comparing in actual size")
    page.keyboard.press("Escape")
    page.goto("/#" + "0" * 32)
    expect(page.locator("#trouble")).to_be_visible()
    judge("gone")
    page.get_by_role("link", name="All requests").click()
    expect(page.locator("#requests li").first).to_be_visible()
    judge("list")


def test_nor_has_the_question_for_a_key(page: Page, axe: str, complaints: Complaints) -> None:
    """It is asked where the service says that it needs one."""
    complaints.allow("status of 401")
    page.route("**/requests?*", lambda route: route.fulfill(status=401, json={}))
    page.reload()
    expect(page.get_by_label("API key")).to_be_focused()
    Judge(page, axe)("key needed")
