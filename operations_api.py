"""What operators ask a process: does it live, is it ready, what does it count.

A server has these routes among its own (`http_api`); a worker alone has them on `METRICS_PORT`,
by the same rules: the metrics need a key where there are keys, the others don't.
"""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import metrics
from access_control import AccessControl
from database_helper import is_alive
from http_router import Router, route, unavailable
from httpd.http_protocol import Response, json_response
from queue_depth import QueueDepth
from service_process import listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database
    from http_router import Call, Route
    from service_process import ServiceProcess
    from storage.image_store import ImageStore

LAST_SECONDS: Final = 2.0  # for answers under way when all else has ended


class OperationsApi:
    """The answers; `is_draining` is to be set when the process is stopping."""

    def __init__(self, database: Database, store: ImageStore) -> None:
        self._database = database
        self._store = store
        self._queue_depth = QueueDepth(database)
        self.is_draining = False
        self.url = ""  # where a port of its own is

    @property
    def routes(self) -> list[Route]:
        """What is answered."""
        return [
            route("/metrics", GET=self._metrics),
            route("/healthz", is_public=True, is_quick=True, GET=self._healthz),
            route("/readyz", is_public=True, is_charged=True, GET=self._readyz),
        ]

    def _metrics(self, call: Call) -> Response:  # noqa: ARG002  # every handler takes the call
        page = metrics.render(self._queue_depth)
        return Response(HTTPStatus.OK, page, {"Content-Type": metrics.CONTENT_TYPE})

    def _healthz(self, call: Call) -> Response:  # noqa: ARG002
        return json_response({"status": "ok"})

    def _readyz(self, call: Call) -> Response:  # noqa: ARG002
        with self._database.reading() as cursor:
            is_alive(cursor)
        self._store.check()
        if self.is_draining:
            raise unavailable("the service is stopping; ask again when it has been started anew")
        return json_response({"status": "ready"})


@contextmanager
def serving_operations(process: ServiceProcess) -> Iterator[OperationsApi]:
    """Answer on METRICS_PORT, if it is set, until the end of the block. Raises SettingsError."""
    operations = OperationsApi(process.database, process.store)
    if process.settings.metrics_port is None:
        yield operations
        return
    server = listen(process.settings.host, process.settings.metrics_port, "METRICS_PORT")
    settings = process.settings.with_port(server.server_port)
    operations.url = settings.own_url
    server.start(Router(AccessControl(settings), operations.routes).answer)
    try:
        yield operations
    finally:
        server.drain(LAST_SECONDS)
