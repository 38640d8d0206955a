"""The options of an upload: what they may be, what they mean when left out.

Pure: text fields in, one frozen value out. The same value travels to the decoder process as
JSON and stands in `requests.options`, so that every worker works from the same words.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from errors import HttpError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from address_policy import AddressPolicy

MAX_DIMENSION = 65_535  # the largest side that JPEG can say
MAX_OUTPUT_BYTES = 10**12  # of `max_bytes`; far beyond any image, and within every integer type
MAX_WEBHOOK_URL_CHARACTERS = 2048
AUTO = "auto"

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,13}")


class OutputFormat(StrEnum):
    """What an output image is stored as."""

    KEEP = "keep"  # the input's own; BMP and TIFF become JPEG, PNG with transparency or if smaller
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    AVIF = "avif"


class Effort(StrEnum):
    """Processor time spent for bytes."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class Priority(StrEnum):
    """Which requests a worker takes first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What is asked of each image. `quality` is 1 to 100, or None for `auto`; pixels and bytes."""

    format: OutputFormat = OutputFormat.KEEP
    quality: int | None = None
    effort: Effort = Effort.BALANCED
    max_width: int | None = None
    max_height: int | None = None
    max_bytes: int | None = None
    background: str = "#ffffff"

    @property
    def asks_only_compression(self) -> bool:
        """Whether the original pixels in the original format would be a right answer too."""
        return self.format is OutputFormat.KEEP and not (
            self.max_width or self.max_height or self.max_bytes
        )

    def to_json(self) -> dict[str, Any]:
        """Return the options in the words of the upload form, every one of them."""
        values = {name: getattr(self, name) for name in self.__slots__}  # asdict's copies cost more
        return values | {"quality": AUTO if self.quality is None else self.quality}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageOptions:
        """Take back what `to_json` gave; keys that are not an image's are passed over."""
        return cls(
            format=OutputFormat(values["format"]),
            quality=None if values["quality"] == AUTO else int(values["quality"]),
            effort=Effort(values["effort"]),
            max_width=values["max_width"],
            max_height=values["max_height"],
            max_bytes=values["max_bytes"],
            background=values["background"],
        )


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Everything that an upload may ask for. `webhook_url` has no credentials any more."""

    image: ImageOptions = ImageOptions()
    webhook_url: str | None = None
    strict: bool = False
    dry_run: bool = False
    priority: Priority = Priority.NORMAL

    def to_json(self) -> dict[str, Any]:
        """Return what `GET /status/{id}` shows as `options`."""
        return self.image.to_json() | {
            "webhook_url": self.webhook_url,
            "strict": self.strict,
            "priority": self.priority.value,
        }


def parse_options(
    fields: Mapping[str, str], webhook_policy: AddressPolicy | None = None
) -> RequestOptions:
    """Read an upload's form fields or query parameters.

    An empty value counts as left out, as browsers send fields that nobody filled. Without a
    policy for them no webhooks are sent. Raises HttpError 422 that names the first unknown
    option or bad value.
    """
    given = {name: text.strip() for name, text in fields.items()}
    unknown = sorted(set(given) - _NAMES)
    if unknown:
        like = difflib.get_close_matches(unknown[0][:100], _NAMES, n=1)
        hint = f"perhaps {like[0]} is meant; " if like else ""
        known = ", ".join(sorted(_NAMES))
        raise _refusal(f"unknown option {unknown[0][:100]!r}; {hint}known are {known}")
    values: dict[str, Any] = {
        name: _PARSERS[name](name, text)
        for name, text in given.items()
        if text and name in _PARSERS
    }
    if given.get(_WEBHOOK_URL):
        values[_WEBHOOK_URL] = _parse_webhook_url(given[_WEBHOOK_URL], webhook_policy)
    of_request = {_WEBHOOK_URL, "strict", "dry_run", "priority"} & values.keys()
    request = {name: values.pop(name) for name in of_request}
    return RequestOptions(image=ImageOptions(**values), **request)


def _parse_webhook_url(text: str, policy: AddressPolicy | None) -> str:
    """Return the URL in the form that is sent to; the text itself stands in no error."""
    if policy is None:
        raise _refusal(
            f"{_WEBHOOK_URL}: this service sends no webhooks, as its WEBHOOK_SECRET is not set"
        )
    if len(text) > MAX_WEBHOOK_URL_CHARACTERS:
        raise _refusal(f"{_WEBHOOK_URL}: longer than {MAX_WEBHOOK_URL_CHARACTERS} characters")
    try:
        return policy.check_url(text).url
    except ImageError as error:
        raise _refusal(f"{_WEBHOOK_URL}: {error.detail}") from None


def _refusal(detail: str) -> HttpError:
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)


def _number(name: str, text: str, most: int, other: str = "") -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise _refusal(f"{name}: {text[:100]!r} is not {other}a whole number from 1 to {most}")
    return int(text)


def _choice(name: str, text: str, choices: type[StrEnum]) -> StrEnum:
    try:
        return choices(text)
    except ValueError:
        raise _refusal(f"{name}: {text[:100]!r} is not one of {', '.join(choices)}") from None


def _flag(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise _refusal(f"{name}: {text[:100]!r} is neither true nor false")
    return text == "true"


def _colour(name: str, text: str) -> str:
    if not _COLOUR.fullmatch(text):
        raise _refusal(f"{name}: {text[:100]!r} is not a colour like #ffffff")
    return text.lower()


def _quality(name: str, text: str) -> int | None:
    return None if text == AUTO else _number(name, text, 100, other=f"{AUTO} or ")


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "format": lambda name, text: _choice(name, text, OutputFormat),
    "quality": _quality,
    "effort": lambda name, text: _choice(name, text, Effort),
    "max_width": lambda name, text: _number(name, text, MAX_DIMENSION),
    "max_height": lambda name, text: _number(name, text, MAX_DIMENSION),
    "max_bytes": lambda name, text: _number(name, text, MAX_OUTPUT_BYTES),
    "background": _colour,
    "strict": _flag,
    "dry_run": _flag,
    "priority": lambda name, text: _choice(name, text, Priority),
}
_WEBHOOK_URL = "webhook_url"  # read apart: it takes the policy
_NAMES = {*_PARSERS, _WEBHOOK_URL}
