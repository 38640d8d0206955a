"""How the benchmark of peers tells what it measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers_report import FLOOR, SERVICE, Scene, cpu, rate, whole_cpu, wishes
from benchmarks.peers_sides import Job, Program, Run

RUN = Run(
    images=100,
    seconds=2.0,
    started_seconds=3.0,
    cpu_seconds=3.0,
    postgres_seconds=0.0,
    peak_bytes=2**20,
    postgres_peak_bytes=0,
    output_bytes=1000,
)


@pytest.fixture
def scene() -> Scene:
    """Return three rounds in which the service was twice, once and a quarter as fast as the floor."""
    sides = [Program(FLOOR, []), Program(SERVICE, [])]
    found = Scene("0 ms", Job("", 0, Path(), [], 100), sides, {SERVICE: 76.2})
    found.runs[FLOOR] = [RUN, replace(RUN, seconds=4.0), RUN]
    found.runs[SERVICE] = [
        replace(RUN, seconds=1.0, postgres_seconds=0.3),
        replace(RUN, seconds=4.0, postgres_seconds=0.3),
        replace(RUN, seconds=8.0, postgres_seconds=0.3),
    ]
    return found


def test_figures_are_per_image() -> None:
    """Rates are images a second; processor time is in milliseconds an image."""
    run = replace(RUN, postgres_seconds=0.5)
    assert (rate(run), cpu(run), whole_cpu(run)) == (50, 30, 35)


def test_ratios_are_of_the_same_round(scene: Scene) -> None:
    """Median and range are of the ratios of rounds, not ratios of medians."""
    assert scene.ratio(rate, SERVICE, FLOOR) == "1.00 (0.25 to 2.00)"


def test_no_ratio_to_who_did_not_take_part(scene: Scene) -> None:
    """Where a side is missing there is no ratio, and no wish for one."""
    assert scene.ratio(rate, SERVICE, "sharp") == ""
    assert "sharp" not in wishes([scene])


def test_table_has_a_line_for_each_side(scene: Scene) -> None:
    """Each side has a line with as many cells as the head, the service's with PostgreSQL."""
    head, _, *lines = (line for line in scene.table().splitlines() if line.startswith("|"))
    assert [line.split("|")[1].strip() for line in lines] == [FLOOR, SERVICE]
    assert {line.count("|") for line in lines} == {head.count("|")}
    assert "33.0 (33.0 to 33.0)" in lines[1]
    assert "33.0" not in lines[0]


def test_wishes_tell_what_is_wanted_and_what_was_found(scene: Scene) -> None:
    """Each wish stands beside its limit and the ratio that was measured."""
    assert "| 0 ms: images/s to the floor's | ≥ 0.9 | 1.00 (0.25 to 2.00) |  |" in wishes([scene])
    scaled = replace(scene, title="scaled", is_scaled=True)
    assert "| scaled: score | ≥ 95 | 76.2 |  |" in wishes([scaled])
    assert "floor" not in wishes([scaled])
