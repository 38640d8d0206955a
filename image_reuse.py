"""Which earlier image may stand in for one that is to be made: no second work.

Owns what two images must share for that, and the statement that finds the earlier one. Whether the
source is still the same the origin says (`image_downloader`) or its bytes do (`image_pipeline`);
taking the file over is `output_files`' business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from codec.codec_version import codec_version
from fetching.source_response import Validators

if TYPE_CHECKING:
    from collections.abc import Collection

    from database_helper import Cursor
    from request_options import ImageOptions
    from settings import Settings


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a request makes of its images. `seal` is a digest of all that decides on an output."""

    options: ImageOptions
    seal: bytes

    @classmethod
    def of(cls, options: ImageOptions, owner: str | None, settings: Settings) -> Self:
        """Return the recipe of an owner's request; None: of whoever comes without a key.

        Nobody learns, be it by the clock, what another owner has had fetched. The limits are part
        of it, so that no image beyond today's is reused.
        """
        limits = [settings.max_image_bytes, settings.max_image_pixels, settings.max_image_frames]
        words = [options.to_json(), owner, limits, codec_version()]
        return cls(options, sha256(json.dumps(words, sort_keys=True).encode()).digest())

    def key(self, url: str) -> str:
        """Return what the images have in common that are made of a URL by this recipe."""
        return str(UUID(bytes=sha256(self.seal + url.encode()).digest()[:16]))


@dataclass(frozen=True, slots=True)
class EarlierImage:
    """A success of another request that was made of the same URL by the same recipe.

    `source_url` is where a redirect led to, None where there was none. The rest is as in `Outcome`.
    """

    request_id: str
    n: int
    fence: int
    bytes_in: int
    bytes_out: int
    width: int
    height: int
    format: str
    quality: str
    hint: str | None
    sha256: str
    etag: str | None
    last_modified: str | None
    source_url: str | None
    source_sha256: str

    def known(self, url: str) -> Validators:
        """Return what the origin told of the source, when it was asked for this URL."""
        return Validators(self.source_url or url, self.etag, self.last_modified)

    def result(self) -> dict[str, Any]:
        """Return what an image that takes over the file has in common with this one."""
        return {name: getattr(self, name) for name in _RESULT}


_RESULT: Final = (
    *("bytes_in", "bytes_out", "width", "height", "format", "quality", "hint", "sha256"),
    "source_sha256",
)


def find_earlier(cursor: Cursor, keys: Collection[str]) -> dict[str, EarlierImage]:
    """Return the newest image for each key that has one, but for those of deleted requests."""
    cursor.execute(
        # A subquery with a value is asked for each row found. As a join, and with many requests
        # deleted, the planner expects few to remain and reads something else first.
        """select key, earlier.* from unnest(%s::uuid[]) as key, lateral (
               select request_id, n, fence, bytes_in, bytes_out, width, height, format, quality,
                      hint, sha256, etag, last_modified, source_url, source_sha256
                 from images i
                where reuse_key = key and (select true from requests where id = i.request_id)
                order by made_at desc limit 1) as earlier""",
        (list(keys),),
    )
    return {row.pop("key"): EarlierImage(**row) for row in cursor.fetchall()}
