"""The receivers that docs/webhooks.md shows, run as they stand there, with events of our own sender."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import requests

from address_policy import AddressPolicy
from tests.outside_tools import program
from tests.service import ROOT
from tests.waiting import wait_until
from webhook import ClaimedWebhook, event_body, signed_headers
from webhook_sender import WebhookSender

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY, OTHER = bytes(range(32)), bytes(32)
CSV = "http://images.example/static/ab.csv"
BODY = event_body(
    {"status": "completed", "finished_at": "2031-01-01T00:00:00.000Z", "links": {"output_csv": CSV}}
)
LANGUAGES = {"python": "receiver.py", "js": "receiver.mjs"}


class Receiver:
    """A receiver of the document: where it listens, and the log of what it did."""

    def __init__(self, port: int, log: Path) -> None:
        self.authority = f"127.0.0.1:{port}"
        self.url = f"http://{self.authority}/hook"
        self.log = log

    def send(self, webhook_id: str, *keys: bytes) -> int | None:
        """Send an event as a worker does; return the status of the answer."""
        policy = AddressPolicy(allowed_sources=[self.authority])
        webhook = ClaimedWebhook(webhook_id, "a", 1, 0, self.url, BODY)
        return WebhookSender(keys, policy).send(webhook).status

    @property
    def done(self) -> list[str]:
        """What it has done, a line for each event."""
        return self.log.read_text().splitlines()


@pytest.fixture(scope="module", params=LANGUAGES)
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    """Run the receiver of one language."""
    language: str = request.param
    runner = sys.executable if language == "python" else program("node")
    folder = tmp_path_factory.mktemp("receiver")
    document = (ROOT / "docs/webhooks.md").read_text("utf-8")
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    script = folder / LANGUAGES[language]
    script.write_text(code)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    log = folder / "log"
    secret = f"whsec_{base64.b64encode(KEY).decode()}"
    with log.open("wb") as out, (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [runner, script, str(port)],
            cwd=folder,
            env={"WEBHOOK_SECRET": secret},
            stdout=out,
            stderr=errors,
        )

    def is_listening() -> bool:
        assert process.poll() is None, (folder / "errors").read_text()
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(is_listening)
        yield Receiver(port, log)
    finally:
        process.kill()
        process.wait()


def test_each_event_is_done_once(receiver: Receiver) -> None:
    """Signed with its secret alone or beside another one; what comes twice is taken and left."""
    before = len(receiver.done)
    sent = [("msg_1", [KEY]), ("msg_1", [KEY]), ("msg_2", [OTHER, KEY]), ("msg_3", [KEY, OTHER])]
    assert [receiver.send(name, *keys) for name, keys in sent] == [204] * 4
    wait_until(lambda: len(receiver.done) >= before + 3)
    assert receiver.send("msg_1", KEY) == 204
    assert receiver.send("msg_4", KEY) == 204
    wait_until(lambda: len(receiver.done) >= before + 4)
    assert receiver.done[before:] == [f"request.completed {CSV}"] * 4


def test_what_is_forged_is_refused(receiver: Receiver) -> None:
    """Another secret, another body, an old time, no or senseless headers: nothing is done."""
    before = receiver.done
    body, now = BODY.encode(), int(time.time())
    genuine = signed_headers([KEY], "msg_9", body, now)
    forged: list[tuple[bytes, dict[str, str]]] = [
        (body, signed_headers([OTHER], "msg_9", body, now)),
        (body + b" ", genuine),
        (body, signed_headers([KEY], "msg_9", body, now - 600)),
        (body, signed_headers([KEY], "msg_9", body, now + 600)),
        (body, {}),
        (body, genuine | {"webhook-timestamp": "noon"}),
        *[(body, genuine | {"webhook-signature": text}) for text in ("v1", "v1,", "v1,é", "v2,AA")],
    ]
    for content, headers in forged:
        answer = requests.post(receiver.url, data=content, headers=headers, timeout=30)
        assert answer.status_code == 401, headers
    assert receiver.send("msg_9", OTHER) == 401
    assert receiver.done == before
