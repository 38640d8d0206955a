"""TCP and TLS connections to the very addresses that were approved, under one deadline.

Owns look-up, connecting and the clock of an attempt, down to the single `recv`. `address_policy`
says which addresses will do, `source_answer` limits what an answer has beside its body, and
`source_session` says what is asked; redirects and bodies are `image_downloader`'s.

urllib3 makes connections deep inside itself and reuses them in other threads, so they find the
attempt that they work for in a context variable, which is each thread's own.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
from math import inf
from threading import BoundedSemaphore, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import certifi
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from errors import ErrorCode, ImageError
from fetching.source_answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from address_policy import AddressPolicy, SourceUrl

MAX_ADDRESSES_TRIED = 8  # of one host; what a stranger's DNS lists beyond is not tried
MAX_LOOK_UPS = 256  # at a time, those included that nobody waits for any more

_GLANCE_SECONDS = 1.0  # between two looks at whether an origin that is silent has to hurry

_look_ups = BoundedSemaphore(MAX_LOOK_UPS)


def look_up(host: str, port: int) -> list[str]:
    """Return the host's addresses in the order of preference; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class Network:
    """How the net is reached; tests hand in their own resolver and record what is connected to.

    `connect` gets a socket and (address, port), `ca_bundle` is the path of a PEM file.
    """

    resolve: Callable[[str, int], Sequence[str]] = look_up
    connect: Callable[[socket.socket, tuple[str, int]], None] = socket.socket.connect
    ca_bundle: str = certifi.where()

    def tls_context(self) -> ssl.SSLContext:
        """Make a context that demands a certificate of the host, and whose sockets keep time."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=self.ca_bundle)
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.sslsocket_class = _TlsSocket
        return context


class Attempt:
    """One attempt at one image: what its connections must lead to, and by when.

    Entering it makes it the running thread's attempt. `opened` and `received` tell of the
    exchange since the last `aim`: whether it needed a fresh connection, and the bytes heard.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        network: Network,
        *,
        connect_seconds: float,
        total_seconds: float,
    ) -> None:
        self._policy = policy
        self._network = network
        self._connect_seconds = connect_seconds
        self._expires_at = monotonic() + total_seconds
        self._stage_ends_at = inf
        self._must_hurry: Callable[[], bool] = lambda: False
        self._source: SourceUrl | None = None
        self._token: Token[Attempt] | None = None
        self.afresh = False
        self.opened = False
        self.received = 0

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token:
            _current.reset(self._token)

    def aim(self, source: SourceUrl, *, afresh: bool = False) -> None:
        """Begin an exchange with the source; nothing else may be connected to.

        `afresh` passes over the kept connections.
        """
        self._source = source
        self.afresh = afresh
        self.opened = False
        self.received = 0

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return monotonic() >= self._expires_at

    def remaining(self) -> float:
        """Return the seconds left; raises TimeoutError when there are none."""
        now = monotonic()
        seconds = self._expires_at - now
        if seconds <= 0 or (now >= self._stage_ends_at and self._must_hurry()):
            raise TimeoutError("the attempt's time is over")
        return seconds

    def begin_stage(self, seconds: float, must_hurry: Callable[[], bool]) -> None:
        """Be over after so many seconds from now, too, but only while there is need to hurry."""
        self._stage_ends_at = monotonic() + seconds
        self._must_hurry = must_hurry

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Draw the deadline nearer for a while."""
        before = self._expires_at
        self._expires_at = min(before, monotonic() + seconds)
        try:
            yield
        finally:
            self._expires_at = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for a wait that is not the origin's fault."""
        began_at = monotonic()
        try:
            yield
        finally:
            self._expires_at += monotonic() - began_at

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Hold look-up, TCP and TLS to the time for connecting, and name what goes wrong."""
        self.opened = True
        host = self._source.host if self._source else ""
        try:
            with self.at_most(self._connect_seconds):
                yield
        except TimeoutError:
            raise ImageError(
                ErrorCode.TIMEOUT, f"{host} could not be connected to in time."
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise ImageError(
                ErrorCode.TLS_ERROR,
                f"{host} has no valid certificate: {error.verify_message}.",
            ) from None
        except ssl.SSLError:
            raise ImageError(
                ErrorCode.TLS_ERROR, f"No secure connection to {host} could be made."
            ) from None
        except OSError:
            raise ImageError(ErrorCode.CONNECT_ERROR, f"{host} refused the connection.") from None

    def open_socket(self, host: str, port: int) -> socket.socket:
        """Connect to the first approved address that answers; the caller closes the socket."""
        source = self._source
        if not source or (host, port) != (source.host, source.port):
            raise ImageError(ErrorCode.BLOCKED_ADDRESS, f"{host} is not the host that was judged.")
        approved = self._policy.approve(source, self._look_up(source))[:MAX_ADDRESSES_TRIED]
        failure = OSError()
        for position, address in enumerate(approved):
            try:
                seconds = self.remaining() / (len(approved) - position)
                return self._connect(source, address, seconds)
            except OSError as error:
                failure = error
        raise failure

    def _look_up(self, source: SourceUrl) -> Sequence[str]:
        try:
            return [str(ipaddress.ip_address(source.host))]
        except ValueError:
            pass
        # getaddrinfo can't be interrupted: it is left behind in its thread when time is over.
        # Names that take long must not pile up threads without end, so the next look-up waits.
        permits = _look_ups
        if not permits.acquire(timeout=self.remaining()):
            raise TimeoutError("too many look-ups are under way")
        answer: Future[Sequence[str]] = Future()

        def resolve() -> None:
            try:
                answer.set_result(self._network.resolve(source.host, source.port))
            except Exception as error:  # noqa: BLE001  # raised again in the waiting thread
                answer.set_exception(error)
            finally:
                permits.release()

        try:
            Thread(target=resolve, name="look-up", daemon=True).start()
        except RuntimeError as error:  # the machine has no thread left
            permits.release()
            answer.set_exception(OSError(str(error)))
        try:
            addresses = answer.result(self.remaining())
        except TimeoutError:
            raise
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise ImageError(ErrorCode.DNS_ERROR, f"{source.host} has no address.")
        return addresses

    def _connect(self, source: SourceUrl, address: str, seconds: float) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = _TimedSocket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(seconds)
            self._network.connect(sock, (address, source.port))
            self._policy.approve(source, [sock.getpeername()[0]])
            sock.settimeout(self.remaining())  # for the TLS handshake
        except BaseException:
            sock.close()
            raise
        return sock


_current: ContextVar[Attempt] = ContextVar("attempt")


class _TimedSocket(socket.socket):
    # Every wait ends with the attempt, however many of them one read or write takes.

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        attempt = _current.get()
        while True:
            self.settimeout(min(attempt.remaining(), _GLANCE_SECONDS))
            with suppress(TimeoutError):
                size = super().recv_into(*args, **kwargs)
                attempt.received += size
                return size

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_current.get().remaining())
        super().sendall(*args, **kwargs)


class _TlsSocket(_TimedSocket, ssl.SSLSocket):
    pass


class _Connection(HTTPConnection):
    response_class = Answer

    def request(self, *args: Any, **kwargs: Any) -> None:
        attempt = _current.get()
        if attempt.afresh and not attempt.opened:
            self.close()  # sending connects again
        super().request(*args, **kwargs)

    def connect(self) -> None:
        with _current.get().connecting():
            super().connect()

    def _new_conn(self) -> socket.socket:
        return _current.get().open_socket(self.host, self.port)


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOL_CLASSES = {"http": _Pool, "https": _TlsPool}  # for urllib3's pool manager
