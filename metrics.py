"""What this process counts, for Prometheus: the names of all metrics, and how they are shown.

Whoever does a thing counts it here. Each process has its own: a server shows the work of the worker
beside it, not that of workers elsewhere. What the database alone knows is read when somebody asks
(`queue_depth`). No label has a value that strangers can make up. docs/metrics.md has them all.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from errors import ErrorCode, is_retryable
from service_version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX: Final = "image_service_"
OTHER: Final = "other"  # what has no name of its own among a label's values

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CODES: Final = {*ErrorCode, *(f"http_{status.value}" for status in HTTPStatus)}
_ANSWER_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1, 2.5, 5, 10, 30, 60),
)
_STAGE_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a further series for each counter, which nobody asks for
_registry: Final = CollectorRegistry()
ProcessCollector(registry=_registry)  # memory, processor time, descriptors


def _counter(
    name: str, says: str, labels: Iterable[str] = (), values: Iterable[str] = ()
) -> Counter:
    """Return a counter; of one label, all `values` are there from the start, at zero."""
    counter = Counter(PREFIX + name, says, labels, registry=_registry)
    for value in values:
        counter.labels(value)
    return counter


def _gauge(name: str, says: str, labels: Iterable[str] = ()) -> Gauge:
    return Gauge(PREFIX + name, says, labels, registry=_registry)


def _histogram(
    name: str, says: str, labels: Iterable[str], buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(PREFIX + name, says, labels, registry=_registry, buckets=buckets)


# HTTP and uploads

HTTP_RESPONSES = _counter(
    "http_responses",
    "Answers to HTTP requests; a path that is none of ours is of the route other.",
    ["route", "method", "status"],
)
HTTP_SECONDS = _histogram(
    "http_response_seconds",
    "From a request's first byte until its answer could be sent.",
    ["route", "method"],
    _ANSWER_SECONDS,
)
REQUESTS_LIMITED = _counter(
    "http_requests_limited",
    "HTTP requests refused by RATE_LIMIT, by what the client is known by.",
    ["by"],
    ["key", "address"],
)
CONNECTIONS_OPEN = _gauge("http_connections_open", "Connections that have a place.")
CONNECTIONS_LIMIT = _gauge("http_connections_limit", "Places for connections.")
CONNECTIONS_REFUSED = _counter(
    "http_connections_refused", "Connections answered with 503, as all places were at work."
)
CONNECTIONS_DISPLACED = _counter(
    "http_connections_displaced", "Connections that we waited for and that gave way to newcomers."
)
UPLOADS = _counter(
    "uploads",
    "Uploads, by what came of them: refused is the client's fault, unavailable is ours.",
    ["outcome"],
    ["accepted", "replayed", "dry_run", "refused", "unavailable", "abandoned"],
)
UPLOAD_ROWS = _counter("upload_rows", "Product rows of accepted uploads.")
UPLOAD_IMAGES = _counter("upload_images", "Image URLs of accepted uploads.")

# Images

IMAGES_ENDED = _counter(
    "images_ended",
    "Images that reached their end here; the code is why one failed.",
    ["state", "code"],
)
IMAGES_ENDED.labels("succeeded", "")  # these are there from the start, too
for _code in ErrorCode:
    IMAGES_ENDED.labels("cancelled" if _code is ErrorCode.CANCELLED else "failed", _code)
IMAGES_REUSED = _counter(
    "images_reused",
    "Images that took over a file: of their own request, or of an earlier one.",
    ["of"],
    ["request", "earlier"],
)
IMAGE_RETRIES = _counter(
    "image_retries",
    "Attempts that failed and are followed by another, by error code.",
    ["code"],
    filter(is_retryable, ErrorCode),
)
IMAGES_POSTPONED = _counter(
    "images_postponed", "Images put off without an attempt: by origins, the store, the end."
)
IMAGE_INPUT_BYTES = _counter("image_input_bytes", "Sizes of the sources of images that succeeded.")
IMAGE_OUTPUT_BYTES = _counter("image_output_bytes", "Sizes of their outputs.")
_STAGES: Final = _histogram(
    "stage_seconds",
    "One image in a stage, failures included; of record, the commit of one batch.",
    ["stage"],
    _STAGE_SECONDS,
)
DOWNLOAD_SECONDS = _STAGES.labels("download")
COMPRESS_SECONDS = _STAGES.labels("compress")
STORE_SECONDS = _STAGES.labels("store")
RECORD_SECONDS = _STAGES.labels("record")
_STAGE_BYTES: Final = _counter(
    "stage_bytes", "Bytes downloaded, sent to decoders, and written to the store.", ["stage"]
)
DOWNLOAD_BYTES = _STAGE_BYTES.labels("download")
COMPRESS_BYTES = _STAGE_BYTES.labels("compress")
STORE_BYTES = _STAGE_BYTES.labels("store")

# The worker

IMAGES_HELD = _gauge("images_held", "Images that this worker has claimed and not yet recorded.")
LEASES_RENEWED = _counter("leases_renewed", "Leases of images extended by their worker.")
LEASES_EXPIRED = _counter(
    "leases_expired", "Images taken back from workers that gave no sign of life."
)
RESULTS_FENCED = _counter(
    "results_fenced", "Results that came after their lease was over and changed nothing."
)
DOWNLOADS_ACTIVE = _gauge("downloads_active", "Downloads under way.")
_WAITING: Final = _gauge(
    "downloads_waiting",
    "Downloads that wait: for a slot of their host (HOST_CONCURRENCY), for news of their origin, "
    "for a thread (DOWNLOAD_CONCURRENCY), or, under way, for memory.",
    ["reason"],
)
WAITING_FOR_HOST = _WAITING.labels("host")
WAITING_FOR_ORIGIN = _WAITING.labels("origin")
WAITING_FOR_THREAD = _WAITING.labels("thread")
WAITING_FOR_MEMORY = _WAITING.labels("memory")
DECODERS_BUSY = _gauge("decoders_busy", "Decoders that have an image.")
DECODERS_LIMIT = _gauge("decoders_limit", "Decoders that there may be: COMPRESS_PROCESSES.")
DECODER_STARTS = _counter("decoder_starts", "Decoder processes started.")
DECODER_ENDS = _counter(
    "decoder_ends",
    "Decoder processes ended, by why: renewed is the plan, killed came from outside.",
    ["reason"],
    ["renewed", "crash", "timeout", "nonsense", "bug", "killed", "starved"],
)
DECODER_BARS = _gauge(
    "decoder_bar",
    "Bars of the decoders' cage: 1 is up, 0 is what this system doesn't have.",
    ["bar"],
)
REQUESTS_FINISHED = _counter(
    "requests_finished", "Requests whose output CSV was written here, by their end.", ["status"]
)
WEBHOOK_ATTEMPTS = _counter(
    "webhook_attempts",
    "Tries at sending an event, by what came of them.",
    ["outcome"],
    ["delivered", "to_be_retried", "failed"],
)
WEBHOOK_SECONDS = _histogram("webhook_seconds", "One try at sending an event.", (), _ANSWER_SECONDS)
WORKER_RESTARTS = _counter(
    "worker_restarts",
    "Starts anew within the process: of the engine without its database, or of the whole worker.",
    ["part"],
    ["engine", "worker"],
)

# The process

_BUILD: Final = _gauge("build_info", "Always 1: what runs here.", ["version", "python", "codec"])
EMBEDDED_POSTGRES = _gauge(
    "embedded_postgres", "Whether this process runs its own PostgreSQL (1) or DATABASE_URL's (0)."
)


class Waiting:
    """`with Waiting(gauge):` counts one more that waits, until `end` or the block's end.

    `end` may be called by another thread.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._open = [True]

    def __enter__(self) -> Self:
        self._gauge.inc()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Count it no more; a second call does nothing."""
        with suppress(IndexError):  # which of two threads is first is the list's to say
            self._open.pop()
            self._gauge.dec()


def describe_build(codec: str) -> None:
    """Say what runs here; `codec` is the compressor's version."""
    _BUILD.labels(VERSION, platform.python_version(), codec[:12]).set(1)


def count_response(route: str, method: str, status: int, seconds: float) -> None:
    """Count an answer; `route` is a template of ours, `method` whatever the client said."""
    responses, took = _of_answer(route or OTHER, method if method in _METHODS else OTHER, status)
    responses.inc()
    took.observe(seconds)


@lru_cache(maxsize=1024)
def _of_answer(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    # Finding the children of labels costs more than counting.
    return HTTP_RESPONSES.labels(route, method, status), HTTP_SECONDS.labels(route, method)


def count_ended(images: Mapping[tuple[str, str | None], int]) -> None:
    """Count images that reached their end, by state and error code."""
    for (state, code), number in images.items():
        _of_end(state, code_label(code)).inc(number)


@lru_cache(maxsize=1024)
def _of_end(state: str, code: str) -> Counter:
    return IMAGES_ENDED.labels(state, code)


def code_label(code: str | None) -> str:
    """Return an image's error code as a label's value; an origin may invent statuses."""
    return (code or "") if not code or code in _CODES else f"http_{OTHER}"


def render(*more: Collector) -> bytes:
    """Return everything in the text format of Prometheus, and what `more` collects now."""
    page = generate_latest(_registry)
    return page + b"".join(generate_latest(each) for each in more)
