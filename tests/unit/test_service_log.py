"""The log: a line an event, in either format."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from log_context import LogContext, add_request_id, in_thread
from service_log import JsonFormatter, TextFormatter

ROOT = Path(__file__).parents[2]
SPEAK = """
import logging, sys
from service_log import configure_log
configure_log(sys.argv[1])
configure_log(sys.argv[1])
logging.getLogger("shop").info("accepted %d", 3, extra={"request_id": "ab12"})
logging.getLogger("shop").debug("too fine")
logging.getLogger("procrastinate.worker").info("job started")
logging.getLogger("procrastinate.worker").warning("no database")
logging.getLogger("urllib3.connectionpool").warning("connection is full")
"""
CRASH = """
import threading, warnings
from log_context import LogContext
from service_log import configure_log

class Loses:
    def __del__(self):
        raise OSError("lost")

configure_log("json")
warnings.warn("two\\nlines")
Loses()
def fail():
    with LogContext("ab12"):
        raise ValueError("a thread's end")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
raise KeyError("the end of all")
"""
FORGERIES = [
    *(
        "a\n2026-11-23 00:00:00,000 INFO    shop: forged",
        "a\r\n2026",
        "a\rforged",
        "a\x0bb",
        "a\x0cb",
    ),
    *("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x85next", "\x00", "\x7f", "\b\b\bdone"),
    *("\u2028next", "\u2029next", "\u202edesrever", "\u2066x", "\u200fx", "\u061cx", "\udc80"),
]


def _json_line(**record: Any) -> dict[str, Any]:
    fields = {"name": "shop", "levelno": logging.INFO, "levelname": "INFO"} | record
    line = JsonFormatter().format(logging.makeLogRecord(fields))
    assert "\n" not in line
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def test_a_json_line_has_what_the_event_has() -> None:
    """Time, level, logger and message stand under fixed names, in UTC."""
    assert _json_line(msg="took %s", args=("it",), created=0.25) == {
        "time": "1970-01-01T00:00:00.250000+00:00",
        "level": "info",
        "logger": "shop",
        "message": "took it",
    }


def test_extra_fields_become_members() -> None:
    """The request's id can be searched for; what JSON can't say is written as text."""
    line = _json_line(msg="finished", request_id="ab12", folder=Path("/tmp"))
    assert (line["request_id"], line["folder"]) == ("ab12", "/tmp")


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "\udc80", "größe ☃"])
def test_whatever_the_message_it_stays_one_line(text: str) -> None:
    """A hostile URL in a message can't forge a line."""
    assert _json_line(msg="%s", args=(text,))["message"] == text


@pytest.mark.parametrize("text", FORGERIES)
def test_a_stranger_s_text_forges_no_line_and_speaks_to_no_terminal(text: str) -> None:
    """Further lines stand indented, controls are written out; in a traceback too."""
    bug = (ValueError, ValueError(text), None)
    fields = {
        "name": "shop",
        "levelname": "INFO",
        "msg": "GET %s",
        "args": (text,),
        "exc_info": bug,
    }
    first, *further = TextFormatter().format(logging.makeLogRecord(fields)).split("\n")
    assert first.startswith("GET ")
    assert all(line.startswith("  | ") for line in further)
    assert "".join([first, *further]).isprintable()
    line = JsonFormatter().format(logging.makeLogRecord(fields))
    assert line.isascii()
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fetched https://me:hunter2@shop.example/a@b", "fetched https://***@b"),
        ("GET http://me:hun/ter2@shop.example/a", "GET http://***@shop.example/a"),
        ("{'url':'//me:hunter2@shop.example'}", "{'url':'//***@shop.example'}"),
        ("http://hunter2@a.example http://b:c@hunter2@d", "http://***@a.example http://***@d"),
        ("postgresql://shop:hunter2@db.internal/images", "postgresql://***@db.internal/images"),
        (
            "https://shop.example/?mail=me@shop.example",
            "https://shop.example/?mail=me@shop.example",
        ),
        (
            "mail me@shop.example or see http://a.example",
            "mail me@shop.example or see http://a.example",
        ),
    ],
)
def test_the_credentials_of_urls_are_hidden(text: str, shown: str) -> None:
    """Whatever gets into a message, a traceback or a field: the URL stays, its credentials don't."""
    bug = (ValueError, ValueError(text), None)
    fields = {"msg": "%s", "args": (text,), "exc_info": bug, "url": text}
    lines = TextFormatter().format(logging.makeLogRecord(fields)).split("\n")
    assert lines[0] == shown
    assert lines[-1] == f"  | ValueError: {shown}"
    parsed = json.loads(JsonFormatter().format(logging.makeLogRecord(fields)))
    assert (parsed["message"], parsed["url"]) == (shown, shown)
    assert parsed["traceback"].endswith(f"ValueError: {shown}")


def test_credentials_are_hidden_at_any_depth() -> None:
    """In what holds texts, as a key, and in what is made a text for JSON."""
    url, shown = "http://me:hunter2@shop.example/", "http://***@shop.example/"
    line = _json_line(
        msg="tried",
        urls=[url, (url, 7)],
        by_url={url: {"error": ValueError(url), "final": None}},
        error=OSError(url),
    )
    assert line["urls"] == [shown, [shown, 7]]
    assert line["by_url"] == {shown: {"error": shown, "final": None}}
    assert line["error"] == shown


def test_a_traceback_is_a_member() -> None:
    """A bug is logged whole, still as one line."""
    with pytest.raises(ZeroDivisionError) as caught:
        divmod(1, 0)
    error = caught.value
    line = _json_line(msg="image 7", exc_info=(type(error), error, error.__traceback__))
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert "ZeroDivisionError: " in line["traceback"].splitlines()[-1]


def test_what_python_itself_says_is_json_too() -> None:
    """A warning, a destructor's error, and the ends of a thread and of the process."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    warning, destructor, thread, process = map(json.loads, done.stderr.splitlines())
    assert warning["logger"] == "py.warnings"
    assert "two\nlines" in warning["message"]
    assert destructor["traceback"].endswith("OSError: lost")
    assert thread["traceback"].endswith("ValueError: a thread's end")
    assert thread["request_id"] == "ab12"
    assert process["traceback"].endswith("KeyError: 'the end of all'")
    assert process["level"] == "critical"


@pytest.mark.parametrize(
    ("fields", "request_id"),
    [
        ({}, "ab12"),
        ({"request_id": "cd34"}, "cd34"),
        ({"job": {"task_kwargs": {"request_id": "ef56"}}}, "ab12"),
    ],
)
def test_a_line_is_about_the_request_of_its_context(
    fields: dict[str, Any], request_id: str
) -> None:
    """Unless the call names another one."""
    record = logging.makeLogRecord(fields)
    with LogContext("ab12"):
        assert add_request_id(record)
    assert vars(record)["request_id"] == request_id


@pytest.mark.parametrize(
    ("fields", "request_id"),
    [
        ({}, None),
        ({"job": {"task_kwargs": {"request_id": "ef56"}}}, "ef56"),
        ({"job": {"task_kwargs": {"timestamp": 7}}}, None),
        ({"job": "a printer's"}, None),
    ],
)
def test_a_line_of_the_engine_is_about_its_job_s_request(
    fields: dict[str, Any], request_id: str | None
) -> None:
    """Where the context says nothing."""
    record = logging.makeLogRecord(fields)
    assert add_request_id(record)
    assert vars(record).get("request_id") == request_id


def test_threads_and_tasks_keep_the_context() -> None:
    """And what is begun beside them has none, or its own."""

    def said() -> str | None:
        record = logging.makeLogRecord({})
        add_request_id(record)
        return vars(record).get("request_id")

    async def ask() -> list[str | None]:
        with ThreadPoolExecutor(1) as threads:
            with LogContext("ab12"):
                task = asyncio.create_task(in_thread(threads, said))
                mine = await in_thread(threads, said)
            return [mine, await task, await in_thread(threads, said), said()]

    assert asyncio.run(ask()) == ["ab12", "ab12", None, None]


def test_what_the_database_refused_is_told_in_one_line() -> None:
    """The line has the cause, as the engine's own error says the same of everything."""
    program = """
import logging
from procrastinate.exceptions import ConnectorException
from service_log import configure_log
configure_log("text")
try:
    raise ConnectorException from OSError("connection refused\\nIs it running?")
except ConnectorException:
    logging.getLogger("asyncio").exception("Task exception was never retrieved\\nfuture: <Task>")
"""
    (line,) = _run(program)
    assert line.endswith(" asyncio: Task exception was never retrieved (connection refused)")


def _speak(log_format: str) -> list[str]:
    return _run(SPEAK, log_format)


def _run(program: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_process_logs_text_to_standard_error() -> None:
    """Configured twice it logs once, without the engine's chatter."""
    accepted, away = _speak("text")
    assert accepted.endswith(" INFO    shop: accepted 3")
    assert away.endswith(" WARNING procrastinate.worker: no database")


def test_a_process_logs_json_to_standard_error() -> None:
    """The same events, an object a line."""
    accepted, away = map(json.loads, _speak("json"))
    assert (accepted["message"], accepted["request_id"]) == ("accepted 3", "ab12")
    assert away["level"] == "warning"
