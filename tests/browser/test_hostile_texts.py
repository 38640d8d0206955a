"""Names and URLs of strangers are text on the page, whatever they say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Error, expect

from tests.browser.steps import choose, compress, ends, is_loaded, places
from tests.images import photo, saved
from tests.service import CSV_HEADER

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.chromium import Complaints
    from tests.origin import Origin
    from tests.service import Service

JPEG = saved(photo(), "JPEG", quality=95)
TAG = "<img src=x onerror=alert(1)>"
NAMES = [
    TAG,
    "<script>alert(1)</script>",
    "</h3><svg onload=alert(1)>",
    "\u202egpj.elif\u202c \u2066\u2067",  # turns round what follows it
    "long " * 2_000,
    "w" * 10_000,
    "${alert(1)} {{alert(1)}} %3Cimg%3E &lt;b&gt; \"'`",
]
DEAD_URLS = [
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    f"http://{TAG}/x.jpg",
    "JAVASCRIPT:alert(1)//http://a/",
]


@pytest.fixture
def csv(module_origin: Origin) -> str:
    """Return a CSV with every such name, each with an image, and every such URL."""
    path = "/%3Cimg%20src=x%20onerror=alert(1)%3E\u202e.jpg"
    wire_path = "/%3Cimg%20src=x%20onerror=alert(1)%3E%E2%80%AE.jpg"
    module_origin.serve(wire_path, JPEG)
    rows = [(name, f"{module_origin.url(path)}?{n}") for n, name in enumerate(NAMES)]
    for n in range(len(NAMES)):
        module_origin.serve(f"{wire_path}?{n}", JPEG)
    rows += [(f"dead {n}", url) for n, url in enumerate(DEAD_URLS)]
    lines = [
        ",".join([str(n), *(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row)])
        for n, row in enumerate(rows, 1)
    ]
    return "\r\n".join([CSV_HEADER, *lines])


def no_stranger_has_a_hand_in(page: Page) -> None:
    """Check that what was told is text: no element, no handler, no link that runs."""
    assert page.locator("main script, main svg, #gallery img[src='x']").count() == 0
    attributes = page.evaluate(
        "() => [...document.querySelectorAll('*')].flatMap((each) => each.getAttributeNames())"
    )
    assert not [name for name in attributes if name.startswith("on")]
    links = page.locator("a[href]").evaluate_all("links => links.map((link) => link.protocol)")
    assert set(links) <= {"http:", "https:"}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("options", [{"viewport": {"width": 360, "height": 740}}])
def test_names_and_urls_are_only_text(page: Page, csv: str) -> None:
    """In the list of problems, in the gallery, beside an image that is compared."""
    said: list[str] = []
    page.on("dialog", lambda dialog: said.append(dialog.message))
    choose(page, csv, f"{TAG}.csv")
    expect(page.locator("#start")).to_be_visible()
    assert len(places(page)) == len(DEAD_URLS)
    expect(page.locator("#check-title")).to_contain_text(TAG)
    no_stranger_has_a_hand_in(page)
    page.locator("#start").click()
    ends(page, "Completed with errors")
    expect(page.locator("#gallery li.succeeded")).to_have_count(len(NAMES))
    expect(page.locator("#gallery li.failed")).to_have_count(len(DEAD_URLS))
    expect(page.locator("#gallery h3").first).to_have_text(TAG)
    no_stranger_has_a_hand_in(page)
    tallest = page.locator("#gallery li").evaluate_all(
        "cards => Math.max(...cards.map((card) => card.offsetHeight))"
    )
    assert tallest < 500  # a name of 10 kB has three lines
    for n in range(len(NAMES)):
        page.locator("#gallery button").nth(n).click()
        is_loaded(page.locator("#after"))
        is_loaded(page.locator("#before"))
        no_stranger_has_a_hand_in(page)
        page.keyboard.press("Escape")
        expect(page.locator("#compare")).to_be_hidden()
    assert said == []


def test_a_name_that_turns_text_round_turns_only_itself(page: Page, module_origin: Origin) -> None:
    """The sizes beside a file's name stay to its right."""
    module_origin.serve("/%E2%80%AE.jpg", JPEG)
    compress(page, f"{CSV_HEADER}\r\n1,Vase,{module_origin.url()}\u202e.jpg")
    ends(page)
    page.locator("#gallery button").click()
    name, rest = page.locator("#compare-facts").evaluate(
        """(facts) => [...facts.childNodes].map((node) => {
            const range = document.createRange();
            range.selectNode(node);
            return range.getBoundingClientRect().left;
        })"""
    )
    assert name < rest


def test_no_other_code_runs_than_the_page_s_own(page: Page, service: Service) -> None:
    """Its policy lets in no text as code, and the browser holds to it."""
    policy = service.get("/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy


@pytest.mark.parametrize(
    "way",
    [
        "document.body.innerHTML = '<b>text</b>'",
        "document.body.append(document.createRange().createContextualFragment('<b>text</b>'))",
        "document.createElement('script').textContent = 'window.ran = 1'",
        "setTimeout('window.ran = 1')",
        "import('data:text/javascript,window.ran = 1')",
    ],
)
def test_text_does_not_become_code(page: Page, complaints: Complaints, way: str) -> None:
    """Each usual way of turning text into code or HTML fails."""
    complaints.allow("Trusted|Content Security Policy")
    with pytest.raises(Error, match=re.compile("Trusted|fetch")):
        page.evaluate(f"async () => {{ await ({way}); }}")
    assert page.evaluate("window.ran") is None


@pytest.mark.parametrize(
    "tag",
    [
        "['script', { src: 'data:text/javascript,window.ran=1' }]",
        "['iframe', { src: '/' }]",
        "['link', { rel: 'stylesheet', href: 'data:text/css,body{display:none}' }]",
        "['object', { data: '/' }]",
    ],
)
def test_an_element_of_a_stranger_loads_nothing(
    page: Page, complaints: Complaints, tag: str
) -> None:
    """Were one let in, the policy would stop it."""
    complaints.allow("Trusted|Content Security Policy|frame|blocked")
    page.evaluate(
        f"""async () => {{
            const [name, attributes] = {tag};
            const made = document.createElement(name);
            const ended = new Promise((resolve) => {{
                document.addEventListener("securitypolicyviolation", resolve);
            }});
            try {{ Object.assign(made, attributes); }} catch {{ return; }}
            document.body.append(made);
            await ended;
        }}"""
    )
    assert page.evaluate("window.ran") is None
    expect(page.get_by_role("heading", level=1)).to_be_visible()
