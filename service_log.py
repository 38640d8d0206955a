"""The log: one line an event on standard error, as text or as JSON.

What strangers wrote gets into messages and tracebacks, so a record is made harmless where it is
written: it can't forge a line or speak to a terminal, and the credentials of URLs are hidden.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from procrastinate.exceptions import ConnectorException

from errors import ServiceError, first_line
from log_context import add_request_id
from redaction import redact

if TYPE_CHECKING:
    from types import TracebackType

_TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# Controls but for tab and newline, what turns the writing direction, and what can't be encoded.
_UNSEEN: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CONTINUED: Final = "\n  | "  # begins like no record does


class TextFormatter(logging.Formatter):
    """Lines for people; those of a traceback or a longer message stand indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        text = _UNSEEN.sub(_escape, redact(super().format(record)))
        return text.replace("\n", _CONTINUED)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what a call passes as `extra` becomes members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(_redacted(line), default=lambda value: redact(str(value)))


def configure_log(log_format: str) -> None:
    """Send every module's log to standard error as `text` or `json`."""
    handler = logging.StreamHandler()
    handler.addFilter(_is_worth_a_line)
    handler.addFilter(add_request_id)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Both repeat what the callers say.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # What Python itself says, which it would write as several lines of its own.
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_unraisable


def is_json_log() -> bool:
    """Tell whether the log was configured to be JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers)


def _log_uncaught(
    kind: type[BaseException],
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    if issubclass(kind, SystemExit):  # a thread's, which says nothing
        return
    bug = (kind, error, traceback) if error else None
    logging.getLogger("python").critical("%s", kind.__name__, exc_info=bug)


def _log_unraisable(what: Any) -> None:
    """Log what ended a thread, or what a destructor raised."""
    _log_uncaught(what.exc_type, what.exc_value, what.exc_traceback)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Pass what went wrong in the engine, but not the start and end of each of its jobs.

    What failed of the database or the store is told in one line with its cause, a bug with its
    traceback.
    """
    is_engine = record.name.startswith("procrastinate")
    if is_engine and record.levelno < logging.WARNING and not record.exc_info:
        return False
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ConnectorException | ServiceError):
        # The engine's error says the same of everything; its cause says which.
        cause = error.__cause__ or error
        why = first_line(str(cause)) or type(cause).__name__
        told = (first_line(record.getMessage()), why)
        record.msg, record.args, record.exc_info = "%s (%s)", told, None
    return True


def _redacted(value: Any) -> Any:
    """Return what `json` writes, with each text in it redacted."""
    if isinstance(value, dict):
        return {redact(str(key)): _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode()
