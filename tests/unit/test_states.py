"""The life cycles in the code and those that the database enforces are the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from image_queue import RESULT_COLUMNS, ImageState, Outcome
from request_queue import RequestStatus
from webhook import WebhookState

if TYPE_CHECKING:
    from enum import StrEnum

SCHEMA = (Path(__file__).parents[2] / "schema.sql").read_text()


def _without_comments(sql: str) -> str:
    return re.sub(r"--.*", "", sql)


def _table(name: str) -> str:
    found = re.search(rf"create table if not exists {name} \((.*?)\n\)", SCHEMA, re.DOTALL)
    assert found
    return _without_comments(found[1])


@pytest.mark.parametrize(
    ("table", "column", "states"),
    [
        ("requests", "status", RequestStatus),
        ("images", "state", ImageState),
        ("webhooks", "state", WebhookState),
    ],
)
def test_the_states_are_those_that_the_schema_allows(
    table: str, column: str, states: type[StrEnum]
) -> None:
    """Each life cycle's enum has exactly the values of its column's check constraint."""
    check = re.search(rf"check \({column} in \(([^)]*)\)\)", _table(table))
    assert check
    assert re.findall(r"'([a-z_]+)'", check[1]) == list(states)


@pytest.mark.parametrize("names", [RESULT_COLUMNS, tuple(Outcome.__dataclass_fields__)])
def test_what_is_recorded_has_a_column(names: tuple[str, ...]) -> None:
    """An outcome's fields are columns of `images`, but for the one that becomes `due_at`."""
    columns = set(re.findall(r"^ {4}([a-z_0-9]+) ", _table("images"), re.MULTILINE))
    assert set(names) - {"retry_seconds"} <= columns


def test_a_repeated_image_takes_over_every_result() -> None:
    """What an outcome says of the image's bytes or failure is copied to its repetitions, but for
    what lets a later request find it: that is to find one of them.
    """
    own = {"request_id", "n", "fence", "attempts", "state", "retry_seconds", "reused"}
    own |= {"source_url", "source_sha256", "reuse_key"}
    assert set(RESULT_COLUMNS) == set(Outcome.__dataclass_fields__) - own
