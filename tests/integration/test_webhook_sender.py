"""Events over real sockets of loopback: what arrives, what an answer says, what is not reached."""

from __future__ import annotations

import json
import ssl
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from standardwebhooks import Webhook

from address_policy import AddressPolicy
from fetching.source_connection import Network
from fetching.source_session import USER_AGENT
from tests.origin import Origin, Reply
from webhook import Answer, ClaimedWebhook
from webhook_sender import WebhookSender

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

KEY = bytes(range(24))
BODY = json.dumps({"type": "request.completed", "data": {"name": "Lämp"}}, ensure_ascii=False)
HASTY_SECONDS = 0.3
PATIENCE_SECONDS = 5.0  # what a wait of HASTY_SECONDS may take on a busy machine


def _webhook(url: str) -> ClaimedWebhook:
    return ClaimedWebhook(id="msg_1", request_id="a", fence=1, attempts=0, url=url, body=BODY)


def _sender(*origins: Origin, **options: Any) -> WebhookSender:
    policy = AddressPolicy(allowed_sources=[origin.authority for origin in origins])
    return WebhookSender(options.pop("keys", [KEY]), policy, **options)


def test_an_event_arrives_signed(origin: Origin) -> None:
    """Body and headers are those of the standard; the signature is taken by its own library."""
    origin.serve("/hook?a=b", status=204, content_type=None)
    assert _sender(origin).send(_webhook(origin.url("/hook?a=b"))) == Answer(status=204)
    (request,) = origin.requests
    assert (request.method, request.path) == ("POST", "/hook?a=b")
    headers = dict(request.headers)
    assert Webhook(KEY).verify(request.body, headers) == json.loads(BODY)
    assert headers["webhook-id"] == "msg_1"
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        del headers[name]
    assert headers == {
        "host": origin.authority,
        "user-agent": USER_AGENT,
        "content-type": "application/json",
        "content-length": str(len(BODY.encode())),
        "accept-encoding": "identity",
    }


def test_each_try_has_the_time_of_its_own(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver refuses old timestamps, so a later try signs anew, under the same id."""
    url = origin.serve("/hook", status=500)
    sender = _sender(origin)
    sender.send(_webhook(url))
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.9)
    sender.send(_webhook(url))
    first, second = [request.headers for request in origin.requests]
    assert second["webhook-timestamp"] == "2000000000"
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("status", [200, 400, 410, 500])
def test_a_status_is_an_answer(origin: Origin, status: int) -> None:
    """Whatever the receiver says is told as it is."""
    url = origin.serve("/hook", b"thanks", status=status)
    assert _sender(origin).send(_webhook(url)) == Answer(status=status)


def test_a_redirect_is_not_followed(origin: Origin) -> None:
    """A receiver that moved is not chased: the new place was not approved by anyone."""
    url = origin.redirect("/hook", origin.serve("/elsewhere"))
    assert _sender(origin).send(_webhook(url)) == Answer(status=302)
    assert origin.count("/elsewhere") == 0


@pytest.mark.parametrize(("asked", "seconds"), [("7200", 7200.0), ("999999999", 86_400.0)])
def test_a_wish_to_wait_is_told(origin: Origin, asked: str, seconds: float) -> None:
    """Retry-After arrives, bounded by the schedule's longest time."""
    url = origin.serve("/hook", status=503, headers={"Retry-After": asked})
    assert _sender(origin).send(_webhook(url)) == Answer(status=503, retry_after=seconds)


def test_an_endless_answer_is_not_read(origin: Origin) -> None:
    """The status is all that counts: a body without end costs neither memory nor time."""
    url = origin.serve("/hook", b"x" * 2**16, repeat=2**14)
    sender = _sender(origin)
    tracemalloc.start()
    assert sender.send(_webhook(url)) == Answer(status=200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    "reply",
    [
        Reply(silent=True),
        Reply(raw=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000, piece=1, pause=0.05),
    ],
    ids=["silent", "dripping"],
)
def test_a_slow_receiver_is_left(origin: Origin, reply: Reply) -> None:
    """One deadline holds for the whole try, however the receiver spends the time."""
    url = origin.serve_in_turn("/hook", reply)
    began_at = time.monotonic()
    answer = _sender(origin, send_seconds=HASTY_SECONDS).send(_webhook(url))
    assert answer == Answer(error="127.0.0.1 gave no answer in 0.3 s.")
    assert HASTY_SECONDS <= answer.seconds < PATIENCE_SECONDS
    assert HASTY_SECONDS <= time.monotonic() - began_at < PATIENCE_SECONDS


def test_a_lying_body_does_not_undo_an_answer(origin: Origin) -> None:
    """Nor does one that has more between its pieces than is taken."""
    chunks = b"1;" + b"e" * 600_000 + b"\r\nx\r\n"
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    assert _sender(origin).send(_webhook(origin.serve("/hook", raw=raw))) == Answer(status=200)


def test_a_slow_body_does_not_undo_an_answer(origin: Origin) -> None:
    """Once the status is there the event is delivered, whatever the body does."""
    url = origin.serve("/hook", b"x" * 1000, piece=1, pause=0.05)
    began_at = time.monotonic()
    assert _sender(origin).send(_webhook(url)) == Answer(status=200)
    assert time.monotonic() - began_at < PATIENCE_SECONDS


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"what?\r\n\r\n", b"HTTP/1.1 20", b"HTTP/1.1 -200 OK\r\n\r\n", bytes(5000)),
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101,
    ],
    ids=["nothing", "babble", "half", "negative", "zeroes", "headers"],
)
def test_what_is_no_http_is_no_answer(origin: Origin, raw: bytes) -> None:
    """A connection that is closed, or speaks something else, is told as that."""
    url = origin.serve("/hook", raw=raw)
    answer = _sender(origin).send(_webhook(url))
    assert answer == Answer(error="127.0.0.1 gave no valid HTTP answer.")


@pytest.mark.parametrize(
    "raw",
    [b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10**6],
    ids=["interim", "line"],
)
def test_an_endless_head_is_not_read(origin: Origin, raw: bytes) -> None:
    """Nor is it an answer: what comes last may say anything."""
    answer = _sender(origin).send(_webhook(origin.serve("/hook", raw=raw)))
    assert answer == Answer(error="The origin's answer has more than 64 KiB of headers.")


def test_an_interim_answer_is_not_the_answer(origin: Origin) -> None:
    """Receivers may say that they are at it before they say what came of it."""
    raw = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    )
    assert _sender(origin).send(_webhook(origin.serve("/hook", raw=raw))) == Answer(status=204)


def test_a_receiver_that_is_down_is_told(origin: Origin) -> None:
    """A refused connection is a reason, not an accident."""
    sender, url = _sender(origin), origin.url("/hook")
    origin.close()
    assert sender.send(_webhook(url)) == Answer(error="127.0.0.1 refused the connection.")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1/", "127.0.0.1 has an address that is not a public one."),
        ("http://169.254.169.254/", "169.254.169.254 has an address that is not a public one."),
        ("http://rebound.example/", "rebound.example has an address that is not a public one."),
        (
            "http://shop.example:22/",
            "The URL names port 22, which this service does not connect to.",
        ),
        ("http://unknown.example/", "unknown.example has no address."),
    ],
)
def test_a_blocked_address_is_not_connected_to(url: str, error: str) -> None:
    """The rules of images hold at each try, whatever was judged at the upload."""
    connected: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        return {"rebound.example": ["93.184.216.34", "10.0.0.1"]}.get(host, [])

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address)

    sender = _sender(network=Network(resolve=resolve, connect=connect))
    assert sender.send(_webhook(url)) == Answer(error=error)
    assert connected == []


def test_a_secure_receiver_is_reached_if_its_certificate_holds(tmp_path: Path) -> None:
    """TLS works, and only with a certificate that an accepted authority gave."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    network = Network(ca_bundle=str(bundle))
    with Origin(context) as receiver:
        url = receiver.serve("/hook")
        assert _sender(receiver, network=network).send(_webhook(url)) == Answer(status=200)
        error = _sender(receiver).send(_webhook(url)).error
        assert error
        assert error.startswith("localhost has no valid certificate")
        assert receiver.count("/hook") == 1


def test_a_proxy_of_the_environment_is_not_used(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's resolver would decide where the event goes."""
    with Origin() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        assert _sender(origin).send(_webhook(origin.serve("/hook"))) == Answer(status=200)
        assert proxy.connections == 0


def test_nothing_is_sent_unsigned(origin: Origin) -> None:
    """A worker that lacks the secret says so instead of sending."""
    answer = _sender(origin, keys=None).send(_webhook(origin.serve("/hook")))
    assert answer == Answer(error="WEBHOOK_SECRET is not set in the worker.")
    assert origin.connections == 0


def test_a_fault_of_ours_is_an_answer_too(origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong counts as a try, so that no event is tried for ever."""

    def resolve(host: str, port: int) -> Sequence[str]:
        raise RuntimeError("hunter2")

    url = "http://shop.example/hook"
    answer = _sender(origin, network=Network(resolve=resolve)).send(_webhook(url))
    assert answer == Answer(error="Something went wrong on our side.")
    assert "hunter2" in caplog.text
