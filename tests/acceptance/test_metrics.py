"""What running processes count, as Prometheus reads it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.misbehaving_decoder import MARK
from tests.images import photo, saved
from tests.outages import allow_connections, cut_connections
from tests.service import Service, WithDecoder, Worker, assert_problem, csv_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database
    from tests.origin import Origin

Samples = dict[tuple[str, ...], float]
DECODER = Path(__file__).with_name("misbehaving_decoder.py")
TWO = csv_of("http://shop.example/1.jpg,http://shop.example/2.jpg")


def parse(text: str) -> Samples:
    """Return the value of each sample, by its name and the values of its labels."""
    return {
        (sample.name.removeprefix("image_service_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read(service: Service) -> Samples:
    """Return what a service shows."""
    answer = service.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    return parse(answer.text)


class ReachableWorker(Worker):
    """A worker alone that is asked on a port of its own."""

    says = re.compile(r"Working until .*, metrics at (http://127\.0\.0\.1:[0-9]+)/metrics\n")

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path."""
        found = self.says.search(self.log.read_text())
        assert found
        return requests.get(found[1] + path, timeout=30, **options)


def _is_at_rest(counts: Samples) -> bool:
    """Tell whether the worker has let go of all that users have heard the end of.

    And whether its last decoder has started, which counts as busy.
    """
    is_busy = counts["images_held",] or counts["decoders_busy",]
    return not is_busy and counts.get(("requests_finished_total", "completed")) == 1


def test_what_was_done_is_counted(service: Service, module_origin: Origin) -> None:
    """A job, an upload that is refused and a wrong path: each at the place where it happens."""
    image = saved(photo(), "JPEG")
    good = module_origin.serve("/good.jpg", image, headers={"ETag": '"1"'})
    odd = module_origin.serve("/odd.jpg", status=799)
    status = service.run(csv_of(good, good, module_origin.url("/none.jpg"), odd))
    service.run(csv_of(good))
    service.get("/nothing")
    service.request("BREW", "/status/" + "0" * 32)
    service.upload("no CSV")
    service.upload(csv_of(good), {"dry_run": "true"})
    service.wait_until(lambda: _is_at_rest(read(service)))
    counts = read(service)
    expected: Samples = {
        ("images_ended_total", "", "succeeded"): 3,
        ("images_ended_total", "failed", "http_404"): 1,
        ("images_ended_total", "failed", "http_other"): 1,
        ("images_ended_total", "failed", "internal_error"): 0,
        ("images_reused_total", "request"): 1,
        ("images_reused_total", "earlier"): 1,
        ("image_input_bytes_total",): 3 * len(image),
        ("image_output_bytes_total",): status["bytes_out"] * 1.5,
        ("stage_bytes_total", "download"): len(image),  # a 304 has none
        ("stage_bytes_total", "compress"): len(image),
        ("stage_bytes_total", "store"): status["bytes_out"] / 2,
        ("stage_seconds_count", "download"): 4,
        ("stage_seconds_count", "compress"): 1,
        ("stage_seconds_count", "store"): 3,
        ("requests_finished_total", "completed_with_errors"): 1,
        ("requests_finished_total", "completed"): 1,
        ("uploads_total", "accepted"): 2,
        ("uploads_total", "dry_run"): 1,
        ("uploads_total", "refused"): 1,
        ("uploads_total", "unavailable"): 0,
        ("upload_rows_total",): 5,
        ("upload_images_total",): 5,
        ("http_responses_total", "/upload", "202", "POST"): 2,
        ("http_responses_total", "404", "GET", "other"): 1,
        ("http_responses_total", "/status/{id}", "405", "other"): 1,
        ("http_response_seconds_count", "/upload", "POST"): 4,
        ("http_connections_open",): 1,
        ("images_held",): 0,
        ("decoders_busy",): 0,
        ("results_fenced_total",): 0,
        ("queue_images", "processing"): 0,
        ("database_up",): 1,
        ("embedded_postgres",): 0,
    }
    expected = {(name, *sorted(labels)): value for (name, *labels), value in expected.items()}
    assert {key: counts[key] for key in expected} == expected
    assert counts["stage_seconds_count", "record"] >= 1
    assert counts["stage_seconds_sum", "download"] > 0
    assert counts["decoder_starts_total",] >= 1
    assert counts["process_resident_memory_bytes",] > 10_000_000


def test_decoders_that_end_are_counted(database: Database, origin: Origin, tmp_path: Path) -> None:
    """By why; each has been started, too."""
    deeds = {"segfault": "crash", "write garbage": "nonsense", "stumble": "bug"}
    urls = [
        origin.serve(f"/{n}.jpg", saved(photo(), "JPEG", comment=MARK + deed.encode() + b";"))
        for n, deed in enumerate([*deeds, "kill itself"])
    ]
    settings = {"ALLOWED_SOURCES": origin.authority, "COMPRESS_PROCESSES": "1"}
    with WithDecoder(tmp_path, database, DECODER, **settings) as service:
        service.run(csv_of(*urls))
        counts = read(service)
    ends = {key[1]: value for key, value in counts.items() if key[0] == "decoder_ends_total"}
    assert {reason: number for reason, number in ends.items() if number} == {
        **dict.fromkeys(deeds.values(), 1),
        "killed": 3,  # an image that can't help it is tried thrice
    }
    assert counts["decoder_starts_total",] - sum(ends.values()) in {0, 1}  # the last one's heir


@pytest.fixture
def idle(database: Database, tmp_path: Path) -> Iterator[Service]:
    """Run HTTP alone."""
    with Service(tmp_path, database, "--no-worker") as running:
        yield running


def test_what_waits_is_read_from_the_database(idle: Service) -> None:
    """Also where no worker is beside; since when, too."""
    idle.upload(TWO)
    idle.upload(TWO)
    idle.query("update requests set created_at = created_at - interval '1 hour' returning id")
    counts = read(idle)
    assert counts["queue_requests", "pending"] == 2
    assert counts["queue_images", "pending"] == 4
    assert 3600 <= counts["queue_oldest_seconds", "pending"] < 3700
    assert (
        counts["queue_requests", "processing"] == counts["queue_oldest_seconds", "processing"] == 0
    )
    assert counts["queue_webhooks",] == 0
    assert ("stage_seconds_count", "download") in counts


def test_a_run_again_is_as_old_as_its_retry(idle: Service) -> None:
    """An old request that is retried is no alarm; what has ended of it doesn't wait."""
    idle.upload(TWO)
    idle.query(
        """update requests set status = 'processing', started_at = now(), succeeded = 1,
                  created_at = now() - interval '30 days' returning id"""
    )
    counts = read(idle)
    assert counts["queue_images", "processing"] == 1
    assert counts["queue_oldest_seconds", "processing"] < 600


def test_metrics_without_the_database(idle: Service, database: Database) -> None:
    """All the others are there; it is back as soon as the database is."""
    allow_connections(database, allow=False)
    try:
        cut_connections(database)
        counts = read(idle)
    finally:
        allow_connections(database, allow=True)
    assert counts["database_up",] == 0
    assert not [key for key in counts if key[0].startswith("queue_")]
    assert counts["http_connections_limit",] > 0
    assert read(idle)["database_up",] == 1


def test_a_worker_alone_is_asked_on_its_own_port(database: Database, tmp_path: Path) -> None:
    """By the keys that are needed elsewhere; it has these paths and no others."""
    digest = hashlib.sha256(b"open sesame").hexdigest()
    with ReachableWorker(tmp_path, database, METRICS_PORT="0", API_KEYS=digest) as worker:
        assert_problem(worker.get("/metrics"), 401)
        key = {"Authorization": "Bearer open sesame"}
        counts = parse(worker.get("/metrics", headers=key).text)
        assert counts["database_up",] == 1
        assert counts["decoder_starts_total",] >= 1
        assert counts["http_responses_total", "/metrics", "401", "GET"] == 1
        assert worker.get("/healthz").json() == {"status": "ok"}
        assert worker.get("/readyz").json() == {"status": "ready"}
        assert_problem(worker.get("/requests", headers=key), 404)
    assert worker.process.returncode == 0


def test_a_worker_listens_nowhere_by_default(database: Database, tmp_path: Path) -> None:
    """Who doesn't ask for a port has none open."""
    with Worker(tmp_path, database) as worker:
        assert "metrics at" not in worker.log.read_text()


def test_a_port_that_is_taken_stops_the_start(idle: Service, tmp_path: Path) -> None:
    """The line names the setting."""
    assert idle.database
    port = idle.url.rpartition(":")[2]
    with (
        pytest.raises(AssertionError, match=f"cannot start: HOST=127.0.0.1 METRICS_PORT={port}"),
        Worker(tmp_path, idle.database, METRICS_PORT=port),
    ):
        pass
