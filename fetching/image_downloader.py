"""URL to bytes, under limits: one attempt at one image.

Owns the HTTP exchange: redirects, what counts as an answer, and reading it no further than
allowed. `address_policy` judges every hop, `source_connection` connects and keeps the time,
`source_session` asks, `source_response` reads an answer's headers, `byte_budget` bounds what is
in memory. Whether the bytes are an image, and whether and when to try again, is for others.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from sys import maxsize
from typing import TYPE_CHECKING, Protocol, Self

from urllib3.exceptions import HTTPError as TransportError
from urllib3.exceptions import ReadTimeoutError

from errors import ErrorCode, ImageError
from fetching.byte_budget import ByteBudget, Reservation
from fetching.source_connection import Attempt, Network
from fetching.source_response import (
    check_encoding,
    declared_length,
    redirect_target,
    refusal,
    validators,
)
from fetching.source_session import Session

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

    from address_policy import AddressPolicy, SourceUrl
    from fetching.source_response import Validators

FIRST_BYTES = 2**20  # reserved before a body comes; whoever sends nothing more, holds no more
_MAX_REDIRECTS = 5
_STEP_BYTES = 2**20  # reserved when these are there, and so on
_STEP_SECONDS = 10.0  # for a step of them while others wait for memory
_DRAIN_BYTES = 16 * 1024  # of a body that nobody wants, to keep its connection
_DRAIN_SECONDS = 0.5
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
# To a request with conditions: a 304, or what is said by some who can't cope with them. A 5xx may
# be for want of strength, which no second question at once makes better.
_ANSWERS_TO_CONDITIONS = frozenset(
    {HTTPStatus.NOT_MODIFIED, HTTPStatus.BAD_REQUEST, HTTPStatus.PRECONDITION_FAILED}
)


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """What one attempt may take: `total_seconds` from look-up to last byte, redirects included.

    `connect_seconds` hold for each connection made: look-up, TCP and TLS.
    """

    max_bytes: int
    connect_seconds: float
    total_seconds: float


@dataclass(slots=True)
class DownloadedImage:
    """The bytes of an image, and the share of the byte budget that they take up.

    Whoever gets it closes it, best by `with`, when done with the data, which is gone then. The URL
    of the validators is where the image was found after redirects, without credentials. One that
    is unchanged since it was had before (304) has no bytes.
    """

    data: bytes
    sha256: str
    validators: Validators
    reservation: Reservation | None = None
    is_unchanged: bool = False

    def close(self) -> None:
        """Give the bytes back to the budget; a second call does nothing."""
        self.data = b""
        if self.reservation:
            self.reservation.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ConditionsError(Exception):
    """The answer to a request with conditions is of no use: without them, then."""


class Witness(Protocol):
    """Whoever has to know whom a download asks, redirects included; called in its thread."""

    def asks(self, source: SourceUrl) -> None:
        """Hear of the next origin to be asked; what it raises ends the download."""

    def answers(self) -> None:
        """Hear that this one gave an HTTP answer."""


class ImageDownloader:
    """Downloads for many threads at once, over connections that they share.

    `connections` is how many idle ones are kept to a host, of the last `HOSTS_KEPT` hosts.
    Without a budget the bytes in memory are not bounded.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        limits: DownloadLimits,
        *,
        connections: int,
        budget: ByteBudget | None = None,
        network: Network | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._budget = budget or ByteBudget(maxsize, maxsize)
        self._network = network or Network()
        self._session = Session(self._network.tls_context(), connections)

    def download(
        self, url: str, witness: Witness | None = None, known: Validators | None = None
    ) -> DownloadedImage:
        """Fetch the image; blocks for as long as the limits and the byte budget let it.

        With validators that are `known` from before, the origin may answer that nothing has
        changed; where that can't be believed, or the question is refused, it is asked without
        them. The caller closes what it gets. Raises ImageError, with `http_status` and
        `retry_after` where the origin gave them.
        """
        limits = self._limits
        with Attempt(
            self._policy,
            self._network,
            connect_seconds=limits.connect_seconds,
            total_seconds=limits.total_seconds,
        ) as attempt:
            source = self._policy.check_url(url)
            for _ in range(_MAX_REDIRECTS + 1):
                try:
                    answer = self._ask(attempt, source, witness, known)
                except _ConditionsError:
                    answer = self._ask(attempt, source, witness, None)
                if isinstance(answer, DownloadedImage):
                    return answer
                source = self._policy.check_url(answer)
        raise ImageError(
            ErrorCode.TOO_MANY_REDIRECTS,
            f"The URL was redirected more than {_MAX_REDIRECTS} times.",
        )

    def close(self) -> None:
        """Close the idle connections; downloads under way end on their own."""
        self._session.close()

    def _ask(
        self,
        attempt: Attempt,
        source: SourceUrl,
        witness: Witness | None,
        known: Validators | None,
    ) -> DownloadedImage | str:
        """Return the image, or the URL that leads to it. Raises _ConditionsError."""
        conditions = known.conditions(source.url) if known else {}
        if witness:
            witness.asks(source)
        with closing(self._get(attempt, source, conditions)) as response:
            if witness:
                witness.answers()
            status, headers = response.status, response.headers
            if known and conditions and status in _ANSWERS_TO_CONDITIONS:
                _drain(attempt, response)
                if status == HTTPStatus.NOT_MODIFIED and known.agree(headers):
                    return DownloadedImage(b"", "", known, is_unchanged=True)
                raise _ConditionsError
            target = redirect_target(source, status, headers)
            if target is None:
                return self._take(attempt, source, response)
            _drain(attempt, response)
            return target

    def _get(
        self, attempt: Attempt, source: SourceUrl, conditions: dict[str, str]
    ) -> BaseHTTPResponse:
        attempt.aim(source)
        while True:
            try:
                return self._session.fetch(source, conditions)
            except TransportError as error:
                if attempt.is_over or isinstance(error, ReadTimeoutError):
                    raise self._too_slow(attempt) from None
                if attempt.opened or attempt.received or attempt.afresh:
                    raise ImageError(
                        ErrorCode.CONNECT_ERROR, f"{source.host} gave no valid HTTP answer."
                    ) from None
            # The origin closed a kept connection in the very moment of its reuse.
            attempt.aim(source, afresh=True)

    def _take(
        self, attempt: Attempt, source: SourceUrl, response: BaseHTTPResponse
    ) -> DownloadedImage:
        headers = response.headers
        if response.status != HTTPStatus.OK:
            _drain(attempt, response)
            raise refusal(response.status, headers)
        check_encoding(headers)
        declared = declared_length(headers)
        if declared is not None and declared > self._limits.max_bytes:
            raise self._too_large()
        # An undeclared length is unknown up to one byte more than is allowed.
        length = self._limits.max_bytes + 1 if declared is None else declared
        with attempt.paused():
            reservation = self._budget.reserve(min(length, FIRST_BYTES))
        try:
            data = self._read(attempt, response, reservation, declared)
        except BaseException:
            reservation.release()
            raise
        reservation.shrink(len(data))
        return DownloadedImage(
            data=data,
            sha256=sha256(data).hexdigest(),
            validators=validators(source.url, headers),
            reservation=reservation,
        )

    def _read(
        self,
        attempt: Attempt,
        response: BaseHTTPResponse,
        reservation: Reservation,
        declared: int | None,
    ) -> bytes:
        try:
            data = self._read_to_end(attempt, response, reservation, declared)
        except ReadTimeoutError:
            raise self._too_slow(attempt) from None
        except TransportError:
            raise ImageError(
                ErrorCode.TRUNCATED, "The connection broke off within the image."
            ) from None
        if declared is not None and len(data) < declared:
            raise ImageError(
                ErrorCode.TRUNCATED, f"The image ended after {len(data)} of {declared} bytes."
            )
        if not data:
            raise ImageError(ErrorCode.NOT_AN_IMAGE, "The origin's answer is empty.")
        return data

    def _read_to_end(
        self,
        attempt: Attempt,
        response: BaseHTTPResponse,
        reservation: Reservation,
        declared: int | None,
    ) -> bytes:
        limit = self._limits.max_bytes
        pieces, size = [], 0  # of a step each, so that they are few; the only one isn't copied
        while piece := response.read(max(reservation.size - size, 1)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise self._too_large()
            if size == declared:
                break
            if size == reservation.size:
                with attempt.paused():
                    reservation.grow(min(size + _STEP_BYTES, declared or limit + 1))
                attempt.begin_stage(_STEP_SECONDS, self._budget.is_short)
        return b"".join(pieces)

    def _too_slow(self, attempt: Attempt) -> ImageError:
        detail = f"The image did not arrive within {self._limits.total_seconds:g} seconds."
        if not attempt.is_over:
            detail = "The image came too slowly while other images waited for memory."
        return ImageError(ErrorCode.TIMEOUT, detail)

    def _too_large(self) -> ImageError:
        return ImageError(
            ErrorCode.TOO_LARGE, f"The image has more than {self._limits.max_bytes} bytes."
        )


def _drain(attempt: Attempt, response: BaseHTTPResponse) -> None:
    """Read what is left of an answer, so that its connection can be kept; else it is closed."""
    headers = response.headers
    length = headers.get("Content-Length", "0").strip()
    if response.status in _BODILESS and (length != "0" or "Transfer-Encoding" in headers):
        return  # a body that must not be, should it follow, would be read as the next answer
    # A short rest is cheaper than a new connection; a longer one is closed unread.
    with attempt.at_most(_DRAIN_SECONDS), suppress(TransportError, ImageError):
        response.read(_DRAIN_BYTES)
