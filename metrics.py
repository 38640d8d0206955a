"""What this process counts, for Prometheus: `GET /metrics` of a server shows it.

Owns the names of all metrics; whoever does a thing counts it here. Each process has its own: a
server shows the work of the worker beside it, not that of workers elsewhere.
"""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_registry = CollectorRegistry()
ProcessCollector(registry=_registry)  # memory, processor time, descriptors

HTTP_RESPONSES = Counter(
    "image_service_http_responses",
    "Answers to HTTP requests.",
    ["status"],
    registry=_registry,
)
REQUESTS_LIMITED = Counter(
    "image_service_http_requests_limited",
    "HTTP requests refused by RATE_LIMIT, by what the client is known by: key or address.",
    ["by"],
    registry=_registry,
)
IMAGES_ENDED = Counter(
    "image_service_images_ended",
    "Images that reached their end here; `code` is why a failed one did.",
    ["state", "code"],
    registry=_registry,
)
DECODER_BARS = Gauge(
    "image_service_decoder_bar",
    "Bars of the decoders' cage: 1 is up, 0 is what this system doesn't have.",
    ["bar"],
    registry=_registry,
)


def render() -> bytes:
    """Return everything in the text format of Prometheus."""
    return generate_latest(_registry)
