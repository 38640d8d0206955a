"""Webhooks as receivers get them: signed, after the CSV, again until they arrive, and on request."""

from __future__ import annotations

import base64
import json
import re
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
import requests
from openapi_schema_validator import OAS31Validator
from standardwebhooks import Webhook

from tests.images import photo, saved
from tests.origin import Origin, Reply
from tests.service import FINISH_SECONDS, Service, assert_problem, csv_of
from webhook_courier import SENDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from database_helper import Database
    from tests.origin import RecordedRequest

SECRET = f"whsec_{base64.b64encode(bytes(range(40))).decode()}"
JPEG = saved(photo(32, 24), "JPEG", quality=95)
UNKNOWN = "0" * 32
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Receiver(Origin):
    """Takes events; fetches the output CSV while it handles each, as its users do."""

    def __init__(self, port: int = 0) -> None:
        self.answers_on_csv: list[int] = []
        self.may_answer = Event()
        self.may_answer.set()
        super().__init__(port=port)

    def reply_to(self, request: RecordedRequest) -> Reply:
        """Reply as told, after the CSV was asked for."""
        reply = super().reply_to(request)
        event = json.loads(request.body)
        with suppress(requests.ConnectionError):
            csv = event["data"]["links"]["output_csv"]
            self.answers_on_csv.append(requests.get(csv, timeout=FINISH_SECONDS).status_code)
        self.may_answer.wait(FINISH_SECONDS)
        return reply

    def events(self, path: str) -> list[RecordedRequest]:
        """Return what came for a path."""
        with self.lock:
            return [request for request in self.requests if request.path == path]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Run a receiver."""
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def service(
    module_database: Database,
    module_origin: Origin,
    receiver: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """Run the service with a secret."""
    module_origin.serve("/lamp.jpg", JPEG)
    with Service(
        tmp_path_factory.mktemp("service"),
        module_database,
        ALLOWED_SOURCES=f"{module_origin.authority},{receiver.authority}",
        WEBHOOK_SECRET=SECRET,
    ) as running:
        yield running


def _verified(request: RecordedRequest) -> dict[str, Any]:
    """Return the event of a request whose signature the standard's own library takes."""
    event: dict[str, Any] = Webhook(SECRET).verify(request.body, dict(request.headers))
    return event


def _webhook(service: Service, request_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = service.get(f"/status/{request_id}").json()["webhook"]
    return shown


def _hurry(service: Service, request_id: str) -> None:
    """Let the next try be due now, as if the schedule's time had passed."""
    service.query(
        "update webhooks set due_at = now() where request_id = %s returning id", request_id
    )
    service.query(
        """update procrastinate_jobs set scheduled_at = null
            where task_name = 'webhook' and args->>'request_id' = %s returning id""",
        request_id,
    )


def _wait(service: Service, request_id: str, is_met: Callable[[dict[str, Any]], Any]) -> None:
    service.wait_until(lambda: is_met(_webhook(service, request_id)))


def test_a_receiver_is_told_once_the_csv_is_there(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """One signed event with the final status; the CSV that it links to can be had at once."""
    hook = receiver.serve("/told", status=204)
    status = service.run(csv_of(module_origin.url("/lamp.jpg")), webhook_url=hook)
    request_id = status["request_id"]
    _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")
    (request,) = receiver.events("/told")
    event = _verified(request)
    assert request.headers["content-type"] == "application/json"
    assert (event["type"], event["timestamp"]) == ("request.completed", status["finished_at"])
    for name in set(status) - {"webhook"}:
        assert event["data"][name] == status[name]
    assert event["data"]["webhook"]["id"] == request.headers["webhook-id"]
    assert receiver.answers_on_csv == [200]
    webhook = _webhook(service, request_id)
    (delivery,) = webhook.pop("deliveries")
    assert TIME.fullmatch(webhook.pop("delivered_at"))
    assert TIME.fullmatch(delivery.pop("at"))
    assert 0 < delivery.pop("seconds") < FINISH_SECONDS
    webhook_id = request.headers["webhook-id"]
    assert delivery == {
        "webhook_id": webhook_id,
        "attempt": 1,
        "replay": False,
        "status": 204,
        "error": None,
    }
    assert webhook == {
        "id": webhook_id,
        "url": hook,
        "state": "delivered",
        "attempts": 1,
        "last_status": 204,
        "last_error": None,
        "next_attempt_at": None,
    }


def test_an_event_is_as_the_description_of_the_api_says(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """Its headers, its body, and what the status shows of its delivery."""
    document = service.get("/openapi.json").json()
    event = document["webhooks"]["requestFinished"]["post"]
    hook = receiver.serve("/described")
    status = service.run(csv_of(module_origin.url("/lamp.jpg")), webhook_url=hook)
    _wait(service, status["request_id"], lambda webhook: webhook["deliveries"])
    (request,) = receiver.events("/described")
    for header in event["parameters"]:
        assert re.search(header["schema"]["pattern"], request.headers[header["name"]])
    for name, value in (
        ("Event", json.loads(request.body)),
        ("WebhookReport", _webhook(service, status["request_id"])),
    ):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        OAS31Validator(schema).validate(value)


def test_a_request_without_any_success_is_told_as_failed(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """The type says how it ended."""
    hook = receiver.serve("/failed")
    service.run(csv_of(module_origin.url("/nowhere.jpg")), webhook_url=hook)
    service.wait_until(lambda: receiver.count("/failed"))
    event = _verified(receiver.events("/failed")[0])
    assert (event["type"], event["data"]["status"]) == ("request.failed", "failed")
    assert event["data"]["errors_by_code"] == {"http_404": 1}


def test_a_receiver_that_hangs_holds_up_no_other(
    database: Database, module_origin: Origin, receiver: Receiver, tmp_path: Path
) -> None:
    """However many events wait for it: those for another host arrive meanwhile."""
    module_origin.serve("/lamp.jpg", JPEG)
    with Origin(host="127.0.0.2") as hanging:
        silent = hanging.serve_in_turn("/hook", Reply(silent=True))
        sources = [module_origin.authority, receiver.authority, hanging.authority]
        with Service(
            tmp_path, database, ALLOWED_SOURCES=",".join(sources), WEBHOOK_SECRET=SECRET
        ) as service:
            csv = csv_of(module_origin.url("/lamp.jpg"))
            ids = [
                service.upload(csv, {"webhook_url": silent}).json()["request_id"]
                for _ in range(SENDERS + 1)
            ]
            for request_id in ids:
                service.finish(request_id)
            service.wait_until(lambda: hanging.count("/hook"))
            status = service.run(csv, webhook_url=receiver.serve("/meanwhile"))
            _wait(service, status["request_id"], lambda webhook: webhook["state"] == "delivered")
            assert hanging.count("/hook") < SENDERS
            hanging.close()  # so that the service need not wait for it


def test_credentials_in_the_url_go_nowhere(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """Neither the status nor the receiver nor the log has them."""
    hook = receiver.serve("/private")
    cell = csv_of(module_origin.url("/lamp.jpg"))
    status = service.run(cell, webhook_url=hook.replace("//", "//user:hunter2@"))
    assert status["options"]["webhook_url"] == hook
    _wait(service, status["request_id"], lambda webhook: webhook["state"] == "delivered")
    (request,) = receiver.events("/private")
    assert "authorization" not in request.headers
    assert "hunter2" not in json.dumps(status) + request.body.decode() + service.log.read_text()


def test_a_cancelled_request_is_told_as_cancelled(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """What was done until then is in the event, and its CSV is there."""
    release = Event()
    module_origin.serve_in_turn("/held.jpg", Reply(JPEG, until=release))
    hook = receiver.serve("/cancelled")
    cell = csv_of(module_origin.url("/held.jpg"))
    request_id = service.upload(cell, {"webhook_url": hook}).json()["request_id"]
    service.wait_until(lambda: module_origin.count("/held.jpg"))
    assert service.request("DELETE", f"/status/{request_id}").status_code == 202
    release.set()
    service.wait_until(lambda: receiver.count("/cancelled"))
    event = _verified(receiver.events("/cancelled")[0])
    assert (event["type"], event["data"]["status"]) == ("request.cancelled", "cancelled")
    assert receiver.answers_on_csv[-1] == 200


def test_a_redirect_is_no_delivery(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """The place that it leads to hears nothing; the next try is at the old one."""
    elsewhere = receiver.serve("/elsewhere")
    moved = Reply(status=302, headers={"Location": elsewhere})
    hook = receiver.serve_in_turn("/moved", moved, Reply())
    status = service.run(csv_of(module_origin.url("/lamp.jpg")), webhook_url=hook)
    request_id = status["request_id"]
    _wait(service, request_id, lambda webhook: webhook["attempts"] == 1)
    webhook = _webhook(service, request_id)
    assert (webhook["state"], webhook["last_status"]) == ("pending", 302)
    assert webhook["last_error"].endswith("redirects are not followed.")
    _hurry(service, request_id)
    _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")
    first, second = receiver.events("/moved")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert receiver.count("/elsewhere") == 0


def test_a_retry_ends_in_an_event_of_its_own(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """Each end is told under an id of its own; the status shows the deliveries of both."""
    hook = receiver.serve("/again")
    status = service.run(csv_of(module_origin.url("/later.jpg")), webhook_url=hook)
    request_id = status["request_id"]
    _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")
    module_origin.serve("/later.jpg", JPEG)
    assert service.request("POST", f"/status/{request_id}/retry").status_code == 202
    service.wait_until(lambda: receiver.count("/again") == 2)
    _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")
    first, second = receiver.events("/again")
    types = [_verified(event)["type"] for event in (first, second)]
    assert types == ["request.failed", "request.completed"]
    ids = [event.headers["webhook-id"] for event in (second, first)]
    assert ids[0] != ids[1]
    webhook = _webhook(service, request_id)
    assert webhook["id"] == ids[0]
    assert [delivery["webhook_id"] for delivery in webhook["deliveries"]] == ids
    told = _verified(second)["data"]["webhook"]["deliveries"]
    assert [delivery["webhook_id"] for delivery in told] == ids[1:]


def test_a_replay_does_not_wait_for_a_try_under_way(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """The receiver has the event twice then; what it answers to the first counts no more."""
    release = Event()
    hook = receiver.serve_in_turn("/hanging", Reply(status=410, until=release), Reply())
    status = service.run(csv_of(module_origin.url("/lamp.jpg")), webhook_url=hook)
    request_id = status["request_id"]
    service.wait_until(lambda: receiver.count("/hanging"))
    assert service.request("POST", f"/status/{request_id}/webhook").status_code == 202
    _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")
    release.set()
    service.wait_until(lambda: not receiver.open_sockets)
    first, second = receiver.events("/hanging")
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    webhook = _webhook(service, request_id)
    assert (webhook["state"], webhook["attempts"]) == ("delivered", 1)
    assert [delivery["replay"] for delivery in webhook["deliveries"]] == [True]


def test_a_receiver_that_is_gone_is_left_alone_until_asked(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """410 ends it; a replay sends the same event under the same id, with a try of its own."""
    hook = receiver.serve_in_turn("/gone", Reply(status=410), Reply())
    status = service.run(csv_of(module_origin.url("/lamp.jpg")), webhook_url=hook)
    request_id = status["request_id"]
    _wait(service, request_id, lambda webhook: webhook["state"] == "failed")
    webhook = _webhook(service, request_id)
    assert (webhook["last_status"], webhook["next_attempt_at"]) == (410, None)
    assert webhook["last_error"] == "The receiver answered with HTTP status 410: it takes no more."
    for times in (2, 3):  # failed at first, then delivered: both are sent again
        answer = service.request("POST", f"/status/{request_id}/webhook")
        assert (answer.status_code, answer.headers["Location"]) == (202, f"/status/{request_id}")
        assert answer.json()["webhook"]["state"] in {"pending", "delivered"}
        _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")
        assert _webhook(service, request_id)["attempts"] == 1
        events = receiver.events("/gone")
        assert len(events) == times
        assert len({event.headers["webhook-id"] for event in events}) == 1
        assert len({event.body for event in events}) == 1
        assert _verified(events[-1])
    deliveries = _webhook(service, request_id)["deliveries"]
    told = [(each["attempt"], each["replay"], each["status"]) for each in deliveries]
    assert told == [(1, True, 200), (1, True, 200), (1, False, 410)]


def test_a_receiver_that_is_down_gets_its_event_later(
    database: Database, module_origin: Origin, tmp_path: Path
) -> None:
    """The refused try is told in the status; the next one arrives, under the same id."""
    with Receiver() as receiver:
        port, hook = receiver.port, receiver.url("/late")
    with Service(
        tmp_path,
        database,
        ALLOWED_SOURCES=f"{module_origin.authority},{receiver.authority}",
        WEBHOOK_SECRET=SECRET,
    ) as service:
        module_origin.serve("/lamp.jpg", JPEG)
        status = service.run(csv_of(module_origin.url("/lamp.jpg")), webhook_url=hook)
        request_id = status["request_id"]
        _wait(service, request_id, lambda webhook: webhook["attempts"] == 1)
        webhook = _webhook(service, request_id)
        assert (webhook["state"], webhook["last_status"]) == ("pending", None)
        assert webhook["last_error"] == "127.0.0.1 refused the connection."
        assert webhook["next_attempt_at"] > status["finished_at"]
        with Receiver(port) as receiver:
            receiver.serve("/late")
            _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")
            (request,) = receiver.events("/late")
        assert _verified(request)["data"]["request_id"] == request_id
        webhook = _webhook(service, request_id)
        assert webhook["attempts"] == 2
        first, second = reversed(webhook["deliveries"])
        assert (first["status"], first["error"]) == (None, "127.0.0.1 refused the connection.")
        assert (second["status"], second["error"], second["attempt"]) == (200, None, 2)
        assert status["finished_at"][:19] <= first["at"][:19] < second["at"]
        sent_at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
        assert sent_at - datetime.fromisoformat(first["at"]) > timedelta(seconds=3)
        (row,) = service.query("select id from webhooks where request_id = %s", request_id)
        assert request.headers["webhook-id"] == row["id"]


def test_a_sender_that_is_killed_is_followed_by_another(
    database: Database, module_origin: Origin, tmp_path: Path
) -> None:
    """SIGKILL while the receiver has the event but has not answered: the same comes again."""
    with Receiver() as receiver:
        receiver.may_answer.clear()
        hook = receiver.serve("/killed")
        module_origin.serve("/lamp.jpg", JPEG)
        settings = {
            "ALLOWED_SOURCES": f"{module_origin.authority},{receiver.authority}",
            "WEBHOOK_SECRET": SECRET,
        }
        with Service(tmp_path, database, **settings) as first:
            answer = first.upload(csv_of(module_origin.url("/lamp.jpg")), {"webhook_url": hook})
            request_id = answer.json()["request_id"]
            first.wait_until(lambda: receiver.answers_on_csv)
            first.stop(signal.SIGKILL)
        receiver.may_answer.set()
        with database.transaction() as cursor:  # as if the lease's time had passed
            cursor.execute("update webhooks set lease_until = now() where lease_until is not null")
        with Service(tmp_path, database, **settings) as second:
            _wait(second, request_id, lambda webhook: webhook["state"] == "delivered")
        events = receiver.events("/killed")
        assert len(events) == 2
        assert len({(event.headers["webhook-id"], event.body) for event in events}) == 1
        assert all(_verified(event) for event in events)


def test_what_can_not_be_sent_again_is_refused(
    service: Service, module_origin: Origin, receiver: Receiver
) -> None:
    """No such request, no URL, not finished: each is told apart."""
    assert_problem(service.request("POST", f"/status/{UNKNOWN}/webhook"), 404)
    silent = service.run(csv_of(module_origin.url("/lamp.jpg")))
    assert silent["webhook"] is None
    problem = assert_problem(
        service.request("POST", f"/status/{silent['request_id']}/webhook"), 409
    )
    assert "without a webhook_url" in problem["detail"]
    module_origin.serve_in_turn("/slow.jpg", Reply(silent=True), Reply(JPEG))
    hook = receiver.serve("/unfinished")
    cell = csv_of(module_origin.url("/slow.jpg"))
    request_id = service.upload(cell, {"webhook_url": hook}).json()["request_id"]
    problem = assert_problem(service.request("POST", f"/status/{request_id}/webhook"), 409)
    assert "not finished" in problem["detail"]
    assert _webhook(service, request_id)["state"] == "waiting"
    answer = service.get(f"/status/{request_id}/webhook")
    assert_problem(answer, 405)
    assert answer.headers["Allow"] == "POST"
    service.wait_until(lambda: module_origin.count("/slow.jpg"))
    assert receiver.count("/unfinished") == 0
    module_origin.drop_connections()  # so that the image is tried again, and comes
    _wait(service, request_id, lambda webhook: webhook["state"] == "delivered")


def test_without_a_secret_nothing_is_taken_on(
    module_database: Database, module_origin: Origin, service: Service, receiver: Receiver,
    tmp_path: Path,
) -> None:  # fmt: skip
    """An upload with a URL is refused, and so is a replay of what was taken on before."""
    hook = receiver.serve("/before")
    status = service.run(csv_of(module_origin.url("/lamp.jpg")), webhook_url=hook)
    _wait(service, status["request_id"], lambda webhook: webhook["state"] == "delivered")
    with Service(tmp_path, module_database, "--no-worker") as secretless:
        answer = secretless.upload(csv_of("http://a.example/"), {"webhook_url": hook})
        problem = assert_problem(answer, 422)
        assert problem["detail"].startswith("webhook_url: ")
        assert "WEBHOOK_SECRET is not set" in problem["detail"]
        replay = f"/status/{status['request_id']}/webhook"
        problem = assert_problem(secretless.request("POST", replay), 422)
        assert "WEBHOOK_SECRET" in problem["detail"]
    assert receiver.count("/before") == 1


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/hook", "http://127.0.0.1:22/hook", "ftp://a.example/", "hook"]
)
def test_a_url_that_is_never_sent_to_is_refused_at_once(service: Service, url: str) -> None:
    """Addresses, ports and schemes that are refused for images are refused for webhooks."""
    problem = assert_problem(service.upload(csv_of("http://a.example/"), {"webhook_url": url}), 422)
    assert problem["detail"].startswith("webhook_url: ")
