"""What every store gives out: a stored object, and one error for all that a store refuses."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from errors import ErrorCode, ImageError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_XML: Final = re.compile(r"<\?xml.*?<Code>(\w+)</Code>.*", re.DOTALL)  # of S3, with a word of why


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store has under a key: bytes, and a tag that changes with the content."""

    key: str
    size: int
    etag: str
    modified: float  # seconds since the epoch
    descriptor: int = -1  # of a file on disk that is open


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what disk and bucket raise into ImageError `storage_error`, but for what is missing."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise storage_error("the store refuses our credentials") from error
    except (BaseError, OSError) as error:
        raise storage_error("the store did not take or give a file") from error


def storage_error(detail: str) -> ImageError:
    """Return the error of a store that is away, full or closed to us."""
    return ImageError(ErrorCode.STORAGE_ERROR, detail)


def reason(error: BaseException) -> str:
    """Return what disk or bucket said, in a line: for operators, as it may name paths."""
    said = _XML.sub(r"\1", str(error.__cause__ or ""))
    return first_line(said)
