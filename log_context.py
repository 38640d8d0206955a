"""Which request the work of the moment is for, so that every line of the log can tell.

Whoever begins something for a request enters its context; what is logged meanwhile has the id,
whichever module says it. Threads don't take a context over by themselves: `in_thread` hands it on.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from concurrent.futures import Executor
    from contextvars import Token

P = ParamSpec("P")
T = TypeVar("T")

_MARK: Final = "_of_request"

_request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")


class LogContext:
    """`with LogContext(request_id):` the block is about this request; empty is about none.

    Its own class, as a generator takes three times as long, for each answer.
    """

    __slots__ = ("_request_id", "_token")

    _token: Token[str]

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def __enter__(self) -> None:
        self._token = _request_id.set(self._request_id)

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        _request_id.reset(self._token)
        if error and self._request_id and not hasattr(error, _MARK):
            setattr(error, _MARK, self._request_id)  # whoever logs it is outside of the block


async def in_thread(
    executor: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return what the function returns in a thread of the executor, about the same request."""
    call = partial(copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(executor, call)


def add_request_id(record: logging.LogRecord) -> bool:
    """Tell a record its request, unless its call has named one; a filter that keeps all."""
    if not hasattr(record, "request_id") and (request_id := _find(record)):
        record.request_id = request_id
    return True


def _find(record: logging.LogRecord) -> str:
    if request_id := _request_id.get():
        return request_id
    if record.exc_info and (request_id := getattr(record.exc_info[1], _MARK, "")):
        return str(request_id)
    job = getattr(record, "job", None)  # the engine's own lines have the job that they are about
    arguments = job.get("task_kwargs") if isinstance(job, dict) else None
    return str(arguments.get("request_id", "")) if isinstance(arguments, dict) else ""
