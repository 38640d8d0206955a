"""What a running service counts, as Prometheus reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.images import photo, saved
from tests.service import csv_of

if TYPE_CHECKING:
    from tests.origin import Origin
    from tests.service import Service


def read(service: Service) -> dict[tuple[str, ...], float]:
    """Return the value of each sample, by its name and the values of its labels."""
    answer = service.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_was_done_is_counted(service: Service, module_origin: Origin) -> None:
    """Images by their end, answers by their status, and what the process takes."""
    module_origin.serve("/good.jpg", saved(photo(), "JPEG"))
    service.run(csv_of(module_origin.url("/good.jpg"), module_origin.url("/none.jpg")))
    service.get("/nothing")
    counts = read(service)
    assert counts["image_service_images_ended_total", "", "succeeded"] == 1
    assert counts["image_service_images_ended_total", "failed", "http_404"] == 1
    assert counts["image_service_http_responses_total", "202"] == 1
    assert counts["image_service_http_responses_total", "404"] == 1
    assert counts["process_resident_memory_bytes",] > 10_000_000
