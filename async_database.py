"""`Database` for the event loop: each transaction runs in a thread of a small pool."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from log_context import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_helper import Cursor, Database

THREADS: Final = 4

P = ParamSpec("P")
T = TypeVar("T")


class AsyncDatabase:
    """Runs functions of a cursor, each in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(THREADS, "database")

    async def run(
        self, statements: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what `statements(cursor, *args, **kwargs)` returned, committed.

        Raises DatabaseUnavailableError. A cancelled caller doesn't stop the transaction.
        """
        return await in_thread(self._threads, partial(self.run_here, statements, *args, **kwargs))

    def run_here(
        self, statements: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do the same in the calling thread, which isn't the loop's."""
        with self._database.transaction() as cursor:
            return statements(cursor, *args, **kwargs)

    def close(self) -> None:
        """Let the threads end; the database itself stays open."""
        self._threads.shutdown(wait=False, cancel_futures=True)
