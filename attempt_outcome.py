"""What the end of an attempt at an image means: success, another try, or the end. Pure.

`image_pipeline` makes attempts, `image_queue` records what is returned here.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from image_queue import ImageState, Outcome

if TYPE_CHECKING:
    from errors import ImageError
    from image_queue import ClaimedImage

FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 60.0


def ended(image: ClaimedImage, state: ImageState, **facts: Any) -> Outcome:
    """Return the outcome of an attempt that counts; `facts` are fields of it."""
    return Outcome(
        request_id=image.request_id,
        n=image.n,
        fence=image.fence,
        attempts=image.attempts + 1,
        state=state,
        **facts,
    )


def failed(image: ClaimedImage, error: ImageError, most_attempts: int) -> Outcome:
    """Return the outcome of a failed attempt: another try, or the end."""
    has_more_tries = image.attempts + 1 < most_attempts
    return ended(
        image,
        ImageState.PENDING if error.is_retryable and has_more_tries else ImageState.FAILED,
        retry_seconds=retry_seconds(image.attempts, error.retry_after),
        error_code=error.code,
        error_detail=error.detail,
        http_status=error.http_status,
    )


def postponed(image: ClaimedImage, seconds: float) -> Outcome:
    """Return the outcome of an attempt that doesn't count: what we need ourselves was away."""
    return Outcome(
        request_id=image.request_id,
        n=image.n,
        fence=image.fence,
        attempts=image.attempts,
        state=ImageState.PENDING,
        retry_seconds=seconds,
    )


def retry_seconds(attempts: int, retry_after: float | None) -> float:
    """Return exponential backoff with jitter, or what the origin asked for if that is longer."""
    backoff: float = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**attempts)
    return max(backoff * random.uniform(0.5, 1.5), retry_after or 0.0)  # noqa: S311  # jitter
