"""The service goes away and comes back, and answers are lost: nothing is done twice."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.steps import choose, compress, ends
from tests.images import photo, saved
from tests.service import Service, csv_of

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from database_helper import Database
    from tests.browser.chromium import Complaints
    from tests.origin import Origin

JPEG = saved(photo(), "JPEG", quality=95)
AWAY = "The service can’t be reached."
SETTINGS = {"SHUTDOWN_SECONDS": "1", "LEASE_SECONDS": "2"}


@pytest.fixture(scope="module")
def service_settings() -> dict[str, str]:
    """Have the service stop soon when it is told to."""
    return SETTINGS


@pytest.fixture
def lost(page: Page, complaints: Complaints) -> list[int]:
    """Lose the answer to the first upload that is no mere check; return the statuses lost."""
    complaints.allow("ERR_FAILED")
    statuses: list[int] = []

    def lose(route: Route) -> None:
        if statuses or "idempotency-key" not in route.request.headers:
            route.continue_()
            return
        statuses.append(route.fetch().status)
        route.abort()

    page.route("**/upload", lose)
    return statuses


def test_an_upload_whose_answer_is_lost_is_sent_again_and_is_one_request(
    page: Page, service: Service, module_origin: Origin, lost: list[int]
) -> None:
    """The page says so, and the same press sends the same."""
    before = service.count_rows()["requests"]
    choose(page, csv_of(module_origin.serve("/lost.jpg", JPEG)))
    page.locator("#start").click()
    expect(page.locator("#check-result")).to_have_text(AWAY)
    expect(page.locator("#check-title")).to_have_text("products.csv could not be sent")
    assert lost == [202]
    assert service.count_rows()["requests"] == before + 1
    page.locator("#start").click()
    ends(page)
    assert service.count_rows()["requests"] == before + 1


def test_another_file_after_a_lost_answer_is_a_request_of_its_own(
    page: Page, service: Service, module_origin: Origin, lost: list[int]
) -> None:
    """It isn't taken for the one whose answer was lost."""
    before = service.count_rows()["requests"]
    choose(page, csv_of(module_origin.serve("/lost.jpg", JPEG)))
    page.locator("#start").click()
    expect(page.locator("#check-result")).to_have_text(AWAY)
    assert lost == [202]
    compress(page, csv_of(module_origin.serve("/another.jpg", JPEG)))
    ends(page)
    assert service.count_rows()["requests"] == before + 2


def test_a_file_is_checked_again_when_the_service_is_back(
    page: Page, complaints: Complaints
) -> None:
    """The button says that it is checked, and not that it is worked on."""
    complaints.allow("ERR_FAILED")
    page.route("**/upload", lambda route: route.abort())
    choose(page, csv_of("ftp://a.example/1.jpg"))
    expect(page.locator("#check-result")).to_have_text(AWAY)
    expect(page.locator("#start")).to_be_hidden()
    page.unroute("**/upload")
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#start")).to_be_visible()


def test_a_request_is_followed_over_a_restart(
    page: Page,
    service: Service,
    module_database: Database,
    module_origin: Origin,
    complaints: Complaints,
) -> None:
    """The page says that the service is away, and goes on when it is back."""
    complaints.allow("ERR_CONNECTION_(REFUSED|RESET)|ERR_EMPTY_RESPONSE|status of 503")
    gate = Event()
    urls = [module_origin.serve("/restart/0.jpg", JPEG)]
    urls += [module_origin.serve("/restart/late.jpg", JPEG, until=gate)]
    compress(page, csv_of(*urls))
    expect(page.locator("#state")).to_contain_text("1 of 2")
    service.stop()
    expect(page.locator("#trouble")).to_have_text(f"{AWAY} Trying again …")
    expect(page.locator("#state")).to_contain_text("1 of 2")
    gate.set()
    with Service(
        service.folder,
        module_database,
        ALLOWED_SOURCES=module_origin.authority,
        PORT=service.url.rpartition(":")[2],
        **SETTINGS,
    ):
        ends(page)
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#gallery li.succeeded")).to_have_count(2)
        page.goto("about:blank")
