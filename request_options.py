"""The options of an upload: what they may be, what they mean when left out.

Pure: text fields in, one frozen value out. The same value travels to the decoder process as
JSON and stands in `requests.options`, so that every worker works from the same words.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_DIMENSION = 65_535  # the largest side that JPEG can say
AUTO = "auto"

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,12}")


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
        return asdict(self) | {"quality": AUTO if self.quality is None else self.quality}

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
    """Everything that an upload may ask for."""

    image: ImageOptions = ImageOptions()
    strict: bool = False
    dry_run: bool = False
    priority: Priority = Priority.NORMAL

    def to_json(self) -> dict[str, Any]:
        """Return what `GET /status/{id}` shows as `options`."""
        return self.image.to_json() | {"strict": self.strict, "priority": self.priority.value}


def parse_options(fields: Mapping[str, str]) -> RequestOptions:
    """Read an upload's form fields or query parameters.

    An empty value counts as left out, as browsers send fields that nobody filled.
    Raises HttpError 422 that names the first unknown option or bad value.
    """
    given = {name: text.strip() for name, text in fields.items()}
    unknown = sorted(set(given) - set(_PARSERS) - {"webhook_url"})
    if unknown:
        raise _refusal(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(_PARSERS))}")
    if given.get("webhook_url"):
        raise _refusal("webhook_url: this service sends no webhooks")
    values: dict[str, Any] = {
        name: _PARSERS[name](name, text) for name, text in given.items() if text
    }
    of_request = {"strict", "dry_run", "priority"} & values.keys()
    request = {name: values.pop(name) for name in of_request}
    return RequestOptions(image=ImageOptions(**values), **request)


def _refusal(detail: str) -> HttpError:
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)


def _number(name: str, text: str, most: int) -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise _refusal(f"{name}: {text[:100]!r} is not a whole number from 1 to {most}")
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
    return None if text == AUTO else _number(name, text, 100)


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "format": lambda name, text: _choice(name, text, OutputFormat),
    "quality": _quality,
    "effort": lambda name, text: _choice(name, text, Effort),
    "max_width": lambda name, text: _number(name, text, MAX_DIMENSION),
    "max_height": lambda name, text: _number(name, text, MAX_DIMENSION),
    "max_bytes": lambda name, text: _number(name, text, 10**12),
    "background": _colour,
    "strict": _flag,
    "dry_run": _flag,
    "priority": lambda name, text: _choice(name, text, Priority),
}
