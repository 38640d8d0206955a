"""The server: takes connections, gives each a place, has it answered, and drains at the end."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final

import metrics
from errors import HttpError
from httpd.connection_places import ConnectionOverError, ConnectionPlaces
from httpd.connection_threads import ConnectionThreads
from httpd.http_connection import HttpHandler
from httpd.http_protocol import problem_response, render_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from httpd.http_protocol import Request, Response

BACKLOG: Final = 1024  # a crowd that comes at once; the kernel may allow less
MAX_CONNECTIONS: Final = 512  # at once, if the process may have the files for them
FILES: Final = 4096
FILES_A_CONNECTION: Final = 2  # its socket and a spooled body, or what it is sent
FILES_RESERVED: Final = 64  # for database, store and decoders, or a quarter of all
IDLE_SECONDS: Final = 75.0  # without a request; longer than load balancers keep theirs unused
LOOK_SECONDS: Final = 0.5  # between two looks for idle connections and answers that hang
PAUSE_SECONDS: Final = 0.02  # before the next look for a connection that can't be taken
FULL_SECONDS: Final = 5  # after which to come again when all places are at work
_LACKS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger(__name__)


class HttpServer(HTTPServer):
    """A bounded number of connections, answered by one function."""

    request_queue_size = BACKLOG

    answer: Callable[[Request], Response]

    def __init__(self, host: str, port: int) -> None:
        self.is_draining = False
        self._is_started = False
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        places = min(MAX_CONNECTIONS, connections_of(_allow_files()))
        self._places = ConnectionPlaces(places)
        metrics.CONNECTIONS_LIMIT.set(places)
        metrics.CONNECTIONS_OPEN.set_function(partial(len, self._places))
        self._threads = ConnectionThreads(self._close)
        self._next_look = 0.0
        # Each handler is made in `process_request`, with its place.
        super().__init__((host.strip("[]"), port), HttpHandler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Take the address; the standard library would ask the resolver for its name as well."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def start(self, answer: Callable[[Request], Response]) -> None:
        """Answer requests by this function, in threads of our own, until `shutdown`."""
        self.answer = answer
        self._is_started = True
        self._threads.start()
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def drain(self, seconds: float) -> None:
        """Refuse connections from now on, and wait so long for the answers under way."""
        self.is_draining = True
        if self._is_started:  # else there is nobody who could stop
            self.shutdown()
        self.server_close()
        if not self._places.wait_until_quiet(seconds):
            logger.warning("some answers took longer than there was time for at the end")
        self._threads.stop()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take the next connection. Raises OSError, after which the loop looks again.

        At once, and so without end, if nothing were done about what the system lacks.
        """
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _LACKS:
                self._places.make_room()
                time.sleep(PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, or refuse it when all places are at work."""
        place = self._places.take(request)
        if place is None:
            metrics.CONNECTIONS_REFUSED.inc()
            _refuse(request)
            self.shutdown_request(request)
            return
        try:
            handler = HttpHandler(request, client_address, self, place, self._threads.leave_lead)
        except (OSError, ConnectionOverError):  # it is gone, or had to give way already
            self._places.leave(place)
            self.shutdown_request(request)
        else:
            self._threads.add(handler)

    def service_actions(self) -> None:
        """Look after connections now and then, called after each that comes and otherwise, too."""
        if (now := time.monotonic()) >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._places.make_room_of_idle(IDLE_SECONDS)
            self._threads.check()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # as inherited
        """Log what nobody expected."""
        logger.exception("connection failed")  # noqa: LOG004  # called while one is handled

    def _close(self, handler: HttpHandler) -> None:
        self._places.leave(handler.place)
        with suppress(OSError):
            self.shutdown_request(handler.connection)


def _refuse(connection: socket.socket) -> None:
    response = problem_response(
        HttpError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"all connections are at work; ask again in {FULL_SECONDS} s",
            headers={"Retry-After": str(FULL_SECONDS)},
        )
    )
    body = response.body if isinstance(response.body, bytes) else b""
    connection.settimeout(0)
    with suppress(OSError):  # it has to come again either way
        connection.sendall(render_head(response, closes=True) + body)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65_536)  # closing on bytes that were not read loses the answer


def connections_of(files: int) -> int:
    """Return how many connections a process may have that may open so many files."""
    reserve = max(FILES_RESERVED, files // 4)
    return max(1, (files - reserve) // FILES_A_CONNECTION)


def _allow_files() -> int:
    """Let the process have FILES files, if it isn't forbidden; return how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return max(soft, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
