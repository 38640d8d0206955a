"""A sample of `make chaos`: the most telling points once each, and workers stopped past their lease."""

from __future__ import annotations

import pytest

from tests.chaos.chaos import Homes, Report, make_tasks, run_tasks
from tests.chaos.launcher import look_up
from tests.chaos.points import BUCKET, POINTS
from tests.chaos.rounds import ROUNDS
from tests.chaos.slot import RECOVERY_SECONDS

SAMPLE = (
    *("upload after commit", "claim after commit", "decode", "staged", "record after commit"),
    "reuse staged",
    *("CSVs staged", "CSVs moved", "webhook after sending", "retry after commit"),
    *("purge of files", "decoder", "embedded PostgreSQL"),
)
STOPPED = ("record before commit", "CSVs staged")
SLOTS = 6
SEED = 8
PATIENCE = 4.0  # other tests run beside; `make chaos` has none

pytestmark = pytest.mark.timeout(400)  # for the first test, which runs them all


@pytest.fixture(scope="module")
def report(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Run the sample, as many at a time as a small machine bears."""
    report = Report(PATIENCE * RECOVERY_SECONDS)
    tasks = make_tasks(SAMPLE, 1, STOPPED, len(STOPPED))
    homes = Homes(postgres, tmp_path_factory.mktemp("chaos"))
    run_tasks(homes, tasks, report, slots=SLOTS, seed=SEED)
    return report


@pytest.mark.parametrize("name", [*SAMPLE, *(f"stop: {point}" for point in STOPPED)])
def test_nothing_is_lost_and_nothing_is_twice(report: Report, name: str) -> None:
    """A killed service comes to the same as undisturbed, and a late finish changes nothing."""
    figures = report.by_name[name]
    assert figures.violations == []
    assert figures.rounds == 1


def test_every_point_has_a_round() -> None:
    """No point is watched and never struck."""
    assert POINTS.keys() - ROUNDS.keys() == BUCKET.keys()


@pytest.mark.parametrize(
    "place", ["image_queue:claim_picture", "storage.folder_store:FolderShop.move"]
)
def test_a_name_that_is_gone_is_told(place: str) -> None:
    """A point whose function has another name now strikes never, which must not go unseen."""
    with pytest.raises(AttributeError):
        look_up(place)
