"""The web page against the code: its words and fields are the service's."""

from __future__ import annotations

import re
from pathlib import Path

from errors import ErrorCode
from request_options import Effort, OutputFormat, Priority, RequestOptions
from request_queue import RequestStatus

WEB = Path(__file__).parents[2] / "web"


def read(name: str) -> str:
    """Return a file of the page."""
    return (WEB / name).read_text("utf-8")


def test_every_reason_is_put_in_plain_words() -> None:
    """Each error code has a meaning and an advice, and no other word has."""
    reasons = re.search(r"const REASONS = \{\n(.*?)\n\};", read("words.js"), re.DOTALL)
    assert reasons
    assert set(re.findall(r"^  (\w+): \[", reasons[1], re.MULTILINE)) == set(ErrorCode)


def test_the_form_has_every_option() -> None:
    """Options are fields of the form and have words for when they are chosen."""
    options = set(RequestOptions().to_json())
    form = read("index.html").split("</form>")[1]
    assert set(re.findall(r'name="(\w+)"', form)) == options
    words = re.search(r"const OPTION_WORDS = \{\n(.*?)\n\};", read("words.js"), re.DOTALL)
    assert words
    assert set(re.findall(r"^  (\w+): ", words[1], re.MULTILINE)) == options


def test_choices_are_those_of_the_service() -> None:
    """Each list of choices has every one, and none that would be refused."""
    values = re.findall(r'<option value="(\w+)"', read("index.html"))
    assert sorted(values) == sorted([*OutputFormat, *Effort, *Priority])


def test_the_page_knows_when_a_request_is_over() -> None:
    """It follows a request until one of the final statuses."""
    found = re.search(r"FINAL_STATUSES = new Set\(\[(.*?)\]\)", read("words.js"))
    assert found
    over = set(re.findall(r'"(\w+)"', found[1]))
    assert set(RequestStatus) - over == {"pending", "processing", "cancelling"}
