"""Who may use a running service, and how much."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.service import Service, assert_problem, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

    from database_helper import Database

KEYS = ("first key", "second key")
RATE = 2  # requests a second: 120 at once
CHANGES = 12  # at once: each counts as ten


@pytest.fixture(scope="module")
def keyed(
    new_database: Callable[[], Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run a service that asks for keys and limits them tightly."""
    digests = ",".join(hashlib.sha256(key.encode()).hexdigest() for key in KEYS)
    folder = tmp_path_factory.mktemp("keyed")
    with Service(
        folder, new_database(), "--no-worker", API_KEYS=digests, RATE_LIMIT=str(RATE)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def open_service(
    new_database: Callable[[], Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run a service that asks for none."""
    folder = tmp_path_factory.mktemp("open")
    with Service(folder, new_database(), "--no-worker", RATE_LIMIT=str(RATE)) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


def first_refusal(ask: Callable[[], requests.Response]) -> tuple[int, requests.Response]:
    """Ask until told to wait; return how often that was answered, and the refusal."""
    for answered in range(100 * RATE):
        answer = ask()
        if answer.status_code == 429:
            return answered, answer
    raise AssertionError("nothing was limited")


def upload(service: Service, key: str) -> requests.Response:
    """Upload a small CSV."""
    return service.upload(csv_of("http://127.0.0.1:1/a.jpg"), headers=bearer(key))


def test_a_key_has_a_rate(keyed: Service) -> None:
    """Uploads beyond it are refused with the seconds to wait; other keys and files are not."""
    answered, refused = first_refusal(lambda: upload(keyed, KEYS[0]))
    assert CHANGES <= answered <= CHANGES + 3  # some time goes by meanwhile
    assert_problem(refused, 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 10 / RATE
    assert upload(keyed, KEYS[1]).status_code == 202
    assert keyed.get("/healthz").status_code == 200
    assert keyed.get(f"/uploads/{'0' * 32}/{'0' * 32}-1.jpg").status_code == 404


@pytest.mark.parametrize("path", ["/requests", "/metrics"])
def test_wrong_keys_are_limited(keyed: Service, path: str) -> None:
    """Who shows wrong ones is soon told to wait; a right one from the same address is answered."""
    guess = bearer("a guess") | {"X-Forwarded-For": f"203.0.113.{len(path)}"}
    answered, refused = first_refusal(lambda: keyed.get(path, headers=guess))
    assert CHANGES <= answered <= CHANGES + 3
    assert_problem(refused, 429)
    assert keyed.get(path, headers=guess | bearer(KEYS[1])).status_code == 200


def test_an_address_has_a_rate(open_service: Service) -> None:
    """It is the one that a trusted proxy tells; others, and the own machine, are not limited."""
    headers = {"X-Forwarded-For": "203.0.113.7"}
    answered, refused = first_refusal(lambda: open_service.get("/requests", headers=headers))
    assert answered >= 60 * RATE
    assert_problem(refused, 429)
    unknown = {"X-Forwarded-For": "unknown"}  # then the proxy is the client
    first_refusal(lambda: open_service.get("/requests", headers=unknown))
    for path in ("/readyz", f"/static/{'0' * 32}.csv"):
        assert first_refusal(partial(open_service.get, path, headers=headers))[0] < RATE * 10
    assert open_service.get("/healthz", headers=headers).status_code == 200
    neighbour = {"X-Forwarded-For": "203.0.113.7, 203.0.113.8"}
    assert open_service.get("/requests", headers=neighbour).status_code == 200
    for _ in range(61 * RATE):
        assert open_service.get("/requests").status_code == 200


def test_other_sites_have_no_way_in(open_service: Service) -> None:
    """Neither by a name that was made to point here, nor by a form that a browser sends."""
    before = open_service.count_rows()
    rebound = {"Host": "rebind.evil.example"}
    assert_problem(open_service.get("/requests", headers=rebound), 421)
    forged = {"Origin": "https://evil.example"}
    assert_problem(open_service.upload(csv_of("http://a.example/"), headers=forged), 403)
    assert open_service.count_rows() == before
    own = {"Origin": open_service.url}
    answer = open_service.upload(csv_of("http://127.0.0.1:1/a"), {"dry_run": "true"}, headers=own)
    assert answer.status_code == 200


def test_a_key_is_no_web_page_s(keyed: Service) -> None:
    """With keys a service has any name: a page of another site doesn't know them."""
    headers = bearer(KEYS[1]) | {"Host": "images.shop.example", "Origin": "https://shop.example"}
    assert keyed.get("/requests", headers=headers).status_code == 200
