"""The named points at which chaos strikes: where in the product each one is, and what it means.

A point is a function of the product, called by the name under which it is looked up, and a moment
of that call or of the transaction that the call is part of. `launcher` wraps them all in every
process that chaos starts, so a name that is gone ends each of those at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Moment(Enum):
    """When a point strikes, seen from its function."""

    ENTRY = auto()  # just called
    EXIT = auto()  # just returned, without an exception
    BEFORE_COMMIT = auto()  # its transaction has done everything but commit
    AFTER_COMMIT = auto()  # its transaction is committed, and nobody knows yet


def _always(*_: Any) -> bool:
    return True


def _of_csv(*args: Any) -> bool:
    return "/.staged/" in args[1] and args[1].startswith("static")


def _to_image(*args: Any) -> bool:
    return "/.staged/" not in args[2] and not _of_csv(*args)


def _of_another_request(*args: Any) -> bool:
    return bool(args[1].request_id != args[2].request_id)


def _of_one_request(*args: Any) -> bool:
    return not _of_another_request(*args)


@dataclass(frozen=True, slots=True)
class Point:
    """A place, `module:name` or `module:Class.name`, and a moment.

    Calls count whose arguments `counts` accepts. `calls` are those of a request in one process
    that are sure to come, of which one strikes.
    """

    place: str
    moment: Moment
    means: str
    calls: int = 1
    counts: Callable[..., bool] = _always


SERVER = {
    "upload before commit": Point(
        *("upload_intake:insert_request", Moment.BEFORE_COMMIT),
        "the rows of an upload are written and not committed; its client gets no answer",
    ),
    "upload after commit": Point(
        *("upload_intake:insert_request", Moment.AFTER_COMMIT),
        "they are committed, and the client gets no answer",
    ),
    "retry before commit": Point(
        *("http_api:retry_request", Moment.BEFORE_COMMIT),
        "a retry is written and not committed",
    ),
    "retry after commit": Point(
        *("http_api:retry_request", Moment.AFTER_COMMIT),
        "it is committed, and the client gets no answer",
    ),
    "cancel before commit": Point(
        *("http_api:cancel_request", Moment.BEFORE_COMMIT),
        "a cancellation is written and not committed",
    ),
    "cancel after commit": Point(
        *("http_api:cancel_request", Moment.AFTER_COMMIT),
        "it is committed, and the client gets no answer",
    ),
    "delete before commit": Point(
        *("http_api:delete_request", Moment.BEFORE_COMMIT),
        "a deletion is written and not committed",
    ),
    "delete after commit": Point(
        *("http_api:delete_request", Moment.AFTER_COMMIT),
        "it is committed, and the client gets no answer",
    ),
}

WORKER = {
    "begin before commit": Point(
        *("worker_steps:begin", Moment.BEFORE_COMMIT),
        "a request is taken into work, its turns queued, and nothing of that committed",
    ),
    "begin after commit": Point(
        *("worker_steps:begin", Moment.AFTER_COMMIT),
        "that is committed, and the engine doesn't know that its job is done",
    ),
    "claim before commit": Point(
        *("image_queue:claim_images", Moment.BEFORE_COMMIT), "images are claimed, not committed"
    ),
    "claim after commit": Point(
        *("image_queue:claim_images", Moment.AFTER_COMMIT), "images are claimed, and none begun"
    ),
    "download": Point(
        *("fetching.image_downloader:ImageDownloader._read", Moment.ENTRY),
        *("an image is on its way from its origin", 6),
    ),
    "decode": Point(
        *("decoder.decoder_handle:Decoder._send", Moment.EXIT), *("an image is in its decoder", 6)
    ),
    "compressed": Point(
        *("output_files:OutputFiles.stage", Moment.ENTRY),
        *("an output is in memory and not in the store", 6),
    ),
    "staged": Point(
        *("output_files:OutputFiles.stage", Moment.EXIT),
        *("an output is staged, and no row names it", 6),
    ),
    "copy staged": Point(
        *("output_files:OutputFiles.stage_copy", Moment.EXIT),
        *("likewise the output of an image that repeats another", 2),
        counts=_of_one_request,
    ),
    "reuse staged": Point(
        *("output_files:OutputFiles.stage_copy", Moment.EXIT),
        *("likewise an output that an earlier request has made", 6),
        counts=_of_another_request,
    ),
    "record before commit": Point(
        *("worker_steps:record", Moment.BEFORE_COMMIT),
        *("results are written and counted, not committed", 3),
    ),
    "record after commit": Point(
        *("worker_steps:record", Moment.AFTER_COMMIT),
        *("they are committed, their files not published", 3),
    ),
    "published": Point(
        *("output_files:OutputFiles.publish", Moment.EXIT),
        *("an output is moved to where it is served", 6),
    ),
    "finish taken": Point(
        *("request_finisher:take_finish", Moment.AFTER_COMMIT),
        "a finish is leased, nothing of the CSVs written",
    ),
    "CSVs staged": Point(
        *("storage.folder_store:FolderStore.move", Moment.ENTRY),
        "both CSVs are staged, the lease is confirmed, none is moved",
        counts=_of_csv,
    ),
    "one CSV moved": Point(
        *("storage.folder_store:FolderStore.move", Moment.EXIT),
        "the output CSV is in place, the report not",
        counts=_of_csv,
    ),
    "CSVs moved": Point(
        *("request_finisher:finish_request", Moment.ENTRY),
        "both CSVs are in place, the status says nothing",
    ),
    "finish before commit": Point(
        *("request_finisher:finish_request", Moment.BEFORE_COMMIT),
        "the final status and the event are written, not committed",
    ),
    "finish after commit": Point(
        *("request_finisher:finish_request", Moment.AFTER_COMMIT),
        "they are committed, the event not sent",
    ),
    "webhook before sending": Point(
        *("webhook_sender:WebhookSender.send", Moment.ENTRY), "an event is claimed and not sent"
    ),
    "webhook after sending": Point(
        *("webhook_sender:WebhookSender.send", Moment.EXIT),
        "the receiver has the event, and no row says so",
    ),
    "cancelling before commit": Point(
        *("image_queue:cancel_pending", Moment.BEFORE_COMMIT),
        "the images that wait are cancelled, not committed",
    ),
    "cancelling after commit": Point(
        *("image_queue:cancel_pending", Moment.AFTER_COMMIT),
        "they are cancelled, those under way not ended",
    ),
    "purge of files": Point(
        *("storage.folder_store:FolderStore.delete_folder", Moment.EXIT),
        "the files of a deleted request are gone, its rows not",
    ),
    "purge before commit": Point(
        *("request_finisher:purge_rows", Moment.BEFORE_COMMIT),
        *("some rows are deleted, not committed", 3),
    ),
    "purge after commit": Point(
        *("request_finisher:purge_rows", Moment.AFTER_COMMIT), *("some rows are deleted", 3)
    ),
}

# No round strikes here, as these have files on disk; tests/acceptance/test_bucket.py does.
BUCKET = {
    "image copied": Point(
        *("storage.bucket_store:BucketStore.copy", Moment.EXIT),
        "an output lies where it is served, and under its attempt's key, too",
        counts=_to_image,
    ),
    "CSV copied": Point(
        *("storage.bucket_store:BucketStore.copy", Moment.EXIT),
        "the output CSV lies in place, and under its finish's key, too",
        counts=_of_csv,
    ),
}

POINTS = SERVER | WORKER | BUCKET
