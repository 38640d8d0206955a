"""One image's life: download, compress or reuse, store; what comes out is an outcome to record.

Owns the threads, decoders and limits that images pass through, and what a failure means: another
try or the end. Claiming and recording are `image_processor`'s. Lives in the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import attempt_outcome
import image_queue
import metrics
from address_policy import parse_source_url
from codec.compressed_image import ImageLimits
from decoder.decoder_pool import DecoderPool, DecoderUnavailableError
from errors import ErrorCode, ImageError, ServiceError
from fetching.byte_budget import ByteBudget
from fetching.image_downloader import FIRST_BYTES, DownloadLimits, ImageDownloader
from image_queue import ImageState
from log_context import in_thread
from output_backlog import OutputBacklog
from output_publisher import OutputPublisher
from politeness.origin_demand import PostponedError
from storage.storage_keys import StagedImage

if TYPE_CHECKING:
    from collections.abc import Collection

    from async_database import AsyncDatabase
    from codec.compressed_image import CompressedImage
    from decoder.decoder_cage import Bar
    from fetching.image_downloader import DownloadedImage
    from fetching.source_response import Validators
    from image_queue import ClaimedImage, Outcome
    from image_reuse import EarlierImage, Recipe
    from output_files import OutputFiles
    from politeness.origin_gate import OriginGate, Visit
    from request_options import ImageOptions
    from settings import Settings

BYTES_IN_FLIGHT: Final = 128 * 2**20  # downloaded and not yet compressed, all images together
BYTES_TO_STORE: Final = 64 * 2**20  # compressed and not yet stored; with more, decoders pause
POSTPONED_SECONDS: Final = 5.0
WITHDRAWN_SECONDS: Final = 1.0  # matters where a retry follows at once

logger = logging.getLogger(__name__)


class _LostError(ServiceError):
    """The image's lease is over, so its outcome will not count."""


class _GoneError(Exception):
    """The file of an earlier image can't be had, be it that it was deleted meanwhile."""


class ImagePipeline:
    """What images pass through. Made and used in one event loop; `close` it there."""

    def __init__(
        self, settings: Settings, database: AsyncDatabase, files: OutputFiles, gate: OriginGate
    ) -> None:
        self._settings = settings
        self._database = database
        self._files = files
        self._gate = gate
        budget = _budget(settings.download_concurrency)
        metrics.WAITING_FOR_MEMORY.set_function(lambda: budget.waiting)
        self._downloader = ImageDownloader(
            settings.address_policy,
            DownloadLimits(
                max_bytes=settings.max_image_bytes,
                connect_seconds=settings.connect_seconds,
                total_seconds=settings.download_seconds,
            ),
            connections=min(settings.download_concurrency, settings.host_concurrency),
            budget=budget,
        )
        self._decoders = DecoderPool(
            settings.compress_processes,
            ImageLimits(settings.max_image_pixels, settings.max_image_frames),
            settings.compress_seconds,
        )
        self._downloads = ThreadPoolExecutor(settings.download_concurrency, "download")
        self._backlog = OutputBacklog(BYTES_TO_STORE)
        # So many outputs can wait for the store while all decoders go on.
        self._makers = ThreadPoolExecutor(settings.compress_processes + files.threads, "make")
        self._stores = ThreadPoolExecutor(files.threads, "store")
        self._publisher = OutputPublisher(files)
        self._suspects = asyncio.Lock()
        self._survivors = asyncio.Semaphore(settings.compress_processes)
        self._withdrawn: Collection[str] = ()

    async def start(self) -> frozenset[Bar]:
        """Start the decoders; return the bars of their cage. Raises DecoderUnavailableError."""
        await in_thread(self._makers, self._decoders.start)
        for _ in range(self._settings.compress_processes - 1):  # nobody waits for the others
            self._makers.submit(self._start_ahead)
        return self._decoders.bars

    def _start_ahead(self) -> None:
        try:
            self._decoders.start()
        except DecoderUnavailableError as error:
            logger.warning("a decoder less to begin with: %s", error)

    def drain(self) -> None:
        """Postpone every image whose download has not begun."""
        self._gate.drain()

    def withdraw(self, request_ids: Collection[str]) -> None:
        """Postpone the images of these requests, and of no others, whose download has not begun."""
        self._withdrawn = request_ids

    def close(self) -> None:
        """End the decoders and connections; whatever is under way fails."""
        for executor in (self._downloads, self._makers, self._stores):
            executor.shutdown(wait=False, cancel_futures=True)
        self._publisher.close()
        self._downloader.close()
        self._decoders.close()

    async def process(self, image: ClaimedImage, recipe: Recipe) -> Outcome:
        """Return how this attempt ended. Raises nothing but cancellation."""
        try:
            if image.repeats is not None:
                return await self._repeat(image, recipe)
            return await self._make_or_reuse(image, recipe)
        except ImageError as error:
            return attempt_outcome.failed(image, error, self._settings.download_attempts)
        except PostponedError as error:
            return attempt_outcome.postponed(image, error.seconds)
        except ServiceError as error:
            logger.warning("image %s-%d waits: %s", image.request_id, image.n, error)
            return attempt_outcome.postponed(image, POSTPONED_SECONDS)
        except Exception:
            logger.exception("image %s-%d", image.request_id, image.n)
            ours = ImageError(ErrorCode.INTERNAL_ERROR, "something went wrong on our side")
            return attempt_outcome.failed(image, ours, self._settings.download_attempts)

    async def _make_or_reuse(self, image: ClaimedImage, recipe: Recipe) -> Outcome:
        """Download an image, and make it unless an earlier one was made of the same bytes."""
        if image.earlier:
            with suppress(_GoneError):  # from the start, then
                return await self._make(image, recipe, image.earlier)
        return await self._make(image, recipe, None)

    async def _make(
        self, image: ClaimedImage, recipe: Recipe, earlier: EarlierImage | None
    ) -> Outcome:
        """Download, compress and store one image, or take over the file of the earlier one."""
        asked = parse_source_url(image.input_url)
        # What an origin can't cope with may be the conditions: later attempts are without.
        known = earlier.known(asked.url) if earlier and not image.attempts else None
        async with self._gate.slot(asked) as visit:
            if image.request_id in self._withdrawn:
                raise PostponedError("the request is being cancelled", WITHDRAWN_SECONDS)
            with metrics.Waiting(metrics.WAITING_FOR_THREAD) as waiting:
                source = await in_thread(
                    self._downloads, self._download, image.input_url, visit, known, waiting
                )
        found = source.validators
        facts = {
            "bytes_in": len(source.data),
            "etag": found.etag,
            "last_modified": found.last_modified,
            "source_url": found.url if found.url != asked.url else None,
            "source_sha256": source.sha256,
            "reuse_key": recipe.key(image.input_url),
        }
        with source:
            if not earlier or not (source.is_unchanged or source.sha256 == earlier.source_sha256):
                return await self._compress(image, source, recipe.options, facts)
        return await self._take_over(image, earlier, facts | earlier.result())

    def _download(
        self, url: str, visit: Visit, known: Validators | None, waiting: metrics.Waiting
    ) -> DownloadedImage:
        waiting.end()
        with metrics.DOWNLOADS_ACTIVE.track_inprogress(), metrics.DOWNLOAD_SECONDS.time():
            source = self._downloader.download(url, visit, known)
        metrics.DOWNLOAD_BYTES.inc(len(source.data))
        return source

    async def _compress(
        self,
        image: ClaimedImage,
        source: DownloadedImage,
        options: ImageOptions,
        facts: dict[str, Any],
    ) -> Outcome:
        """Compress and store an image in one thread's turn, or in two that workers died of."""
        if not image.losses:
            return await in_thread(self._makers, self._make_output, image, source, options, facts)
        output = await self._compress_marked(image, source, options)
        return await in_thread(self._makers, self._store_output, image, output, facts)

    async def _compress_marked(
        self, image: ClaimedImage, source: DownloadedImage, options: ImageOptions
    ) -> CompressedImage:
        """Compress with a mark in the image's row, for hardly longer than it is in a decoder.

        Two workers may have died of it: alone then, so that the next death is no other's fault.
        """

        def mark(*, is_decoding: bool) -> bool:
            return self._database.run_here(
                image_queue.mark_decoding, image, is_decoding=is_decoding
            )

        def compress() -> CompressedImage:
            if not mark(is_decoding=True):
                raise _LostError("the lease of the image is over")
            try:
                return self._compress_source(source, options)
            finally:
                with suppress(ServiceError):  # it matters only if this worker dies as well
                    mark(is_decoding=False)

        is_suspect = image.losses >= image_queue.ALONE_LOSSES
        async with self._suspects if is_suspect else self._survivors:
            return await in_thread(self._makers, compress)

    def _make_output(
        self,
        image: ClaimedImage,
        source: DownloadedImage,
        options: ImageOptions,
        facts: dict[str, Any],
    ) -> Outcome:
        return self._store_output(image, self._compress_source(source, options), facts)

    def _compress_source(self, source: DownloadedImage, options: ImageOptions) -> CompressedImage:
        self._backlog.wait_for_room()
        with source:  # its bytes are for others before the output waits for the store
            return self._decoders.compress(source.data, options)

    def _store_output(
        self, image: ClaimedImage, output: CompressedImage, facts: dict[str, Any]
    ) -> Outcome:
        with self._backlog.holding(len(output.data)), metrics.STORE_SECONDS.time():
            sha256 = self._files.stage(image, output)
        metrics.STORE_BYTES.inc(len(output.data))
        return attempt_outcome.ended(
            image,
            ImageState.SUCCEEDED,
            **facts,
            bytes_out=len(output.data),
            width=output.width,
            height=output.height,
            format=output.format,
            quality=output.quality,
            hint=output.hint or None,
            sha256=sha256,
        )

    async def _repeat(self, image: ClaimedImage, recipe: Recipe) -> Outcome:
        """End an image like the earlier one with the same URL, without a second download.

        If that one's file is lost by now, the image is made as if it repeated none.
        """
        twin = await self._database.run(image_queue.select_twin, image)
        if twin["state"] in {ImageState.PENDING, ImageState.RUNNING}:
            raise PostponedError("a retry has begun the earlier image anew", POSTPONED_SECONDS)
        if twin["state"] == ImageState.SUCCEEDED:
            source = StagedImage.of(image.request_id, twin["n"], twin["fence"], twin["format"])
            try:
                await self._stage_copy(image, source, twin["bytes_out"], twin["sha256"])
            except FileNotFoundError:
                logger.warning("the file of %s-%d is lost or damaged", image.request_id, twin["n"])
                return replace(await self._make(image, recipe, None), reuse_key=None)
        result = {name: twin[name] for name in image_queue.RESULT_COLUMNS}
        return attempt_outcome.ended(image, ImageState(twin["state"]), reused=True, **result)

    async def _take_over(
        self, image: ClaimedImage, earlier: EarlierImage, facts: dict[str, Any]
    ) -> Outcome:
        """End an image with the file of an earlier one. Raises _GoneError."""
        source = StagedImage.of(earlier.request_id, earlier.n, earlier.fence, earlier.format)
        try:
            await self._stage_copy(image, source, earlier.bytes_out, earlier.sha256)
        except (FileNotFoundError, ImageError) as error:
            raise _GoneError from error
        return attempt_outcome.ended(image, ImageState.SUCCEEDED, reused=True, **facts)

    async def _stage_copy(
        self, image: ClaimedImage, source: StagedImage, size: int, sha256: str
    ) -> None:
        with metrics.STORE_SECONDS.time():
            await in_thread(self._stores, self._files.stage_copy, image, source, size, sha256)

    async def publish(self, outcome: Outcome, *, is_accepted: bool) -> None:
        """Let the file of a recorded success be seen, or delete that of one that came too late."""
        if outcome.state != ImageState.SUCCEEDED or outcome.format is None:
            return
        staged = StagedImage.of(outcome.request_id, outcome.n, outcome.fence, outcome.format)
        await self._publisher.publish(staged, is_accepted=is_accepted)


def _budget(downloads: int) -> ByteBudget:
    """Return what downloads share: enough for each to begin, if that leaves half for large ones."""
    beginnings = min(downloads * FIRST_BYTES, BYTES_IN_FLIGHT // 2)
    return ByteBudget(beginnings, BYTES_IN_FLIGHT - beginnings)
