"""Requests on the page: followed, failed, retried, cancelled, deleted, and found again."""

from __future__ import annotations

import base64
import re
from threading import Event
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.steps import compress, ends, shown_request
from tests.images import photo, saved
from tests.service import Service, csv_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from tests.browser.chromium import Complaints
    from tests.origin import Origin

JPEG = saved(photo(), "JPEG", quality=95)
SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"


@pytest.fixture(scope="module")
def service_settings() -> dict[str, str]:
    """Have the service send webhooks."""
    return {"WEBHOOK_SECRET": SECRET}


def test_failures_are_grouped_and_run_again(page: Page, module_origin: Origin) -> None:
    """By reason in plain words, with a way to the images of each; and once more when mended."""
    paths = [f"/failing/{n}.jpg" for n in range(4)]
    module_origin.serve(paths[0], JPEG)
    module_origin.serve(paths[3], b"<!doctype html><p>Sorry.", content_type="text/html")
    urls = [module_origin.url(path) for path in paths]
    compress(page, csv_of(*urls, "mailto:us@example.com"))
    ends(page, "Completed with errors")
    assert page.locator("#failures li").all_inner_texts() == [
        "Not found (HTTP 404): There is no image at the URL. Show 2 images",
        "No URL that can be fetched: Mend the cell in the CSV, and upload it again. Show 1 image",
        "Not an image: The URL gives a web page or a text, perhaps an error page. Show 1 image",
    ]
    page.get_by_role("button", name="Show 2 images").click()
    expect(page.locator("#images-title")).to_be_focused()
    expect(page.locator("#gallery li")).to_have_count(2)
    expect(page.locator("#gallery")).to_contain_text("Row 2: 1.jpg")
    expect(page.locator("#filter option:checked")).to_contain_text("Not found (HTTP 404): 2")
    expect(page.locator("#gallery li.failed")).to_have_count(2)

    for path in paths:
        module_origin.serve(path, JPEG)
    page.get_by_role("button", name="Run the 4 failed images again").click()
    ends(page, "Completed with errors")
    expect(page.locator("#state")).to_contain_text("4 images succeeded, 1 failed")
    expect(page.locator("#failures li")).to_have_count(1)
    page.locator("#filter").select_option("")
    expect(page.locator("#gallery li.succeeded")).to_have_count(4)


def test_what_runs_again_is_shown_so(page: Page, module_origin: Origin) -> None:
    """Images that had failed are no more shown as failed while they are tried again."""
    gate = Event()
    url = module_origin.url("/again/late.jpg")
    compress(page, csv_of(url))
    ends(page, "Failed")
    expect(page.locator("#gallery li.failed")).to_have_count(1)
    module_origin.serve("/again/late.jpg", JPEG, until=gate)
    page.locator("#retry").click()
    expect(page.locator("#gallery li.running, #gallery li.pending")).to_have_count(1)
    gate.set()
    ends(page)
    expect(page.locator("#gallery li.succeeded")).to_have_count(1)


def test_a_running_request_is_cancelled_when_that_is_confirmed(
    page: Page, service: Service, module_origin: Origin
) -> None:
    """What is done stays; what waits for its next try is not tried again."""
    url = module_origin.serve("/cancel/0.jpg", JPEG)
    busy = module_origin.serve("/cancel/busy.jpg", b"", status=503)
    request_id = compress(page, csv_of(url, busy))
    expect(page.locator("#state")).to_contain_text("1 of 2")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="No, go back").click()
    expect(page.locator("#confirm")).to_be_hidden()
    assert service.get(f"/status/{request_id}").json()["status"] == "processing"
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the request").click()
    ends(page, "Cancelled")
    expect(page.locator("#state")).to_contain_text("1 image succeeded, 1 cancelled")
    expect(page.locator("#gallery li.succeeded")).to_be_visible()
    expect(page.locator("#gallery li.cancelled")).to_contain_text("Cancelled")
    expect(page.get_by_role("link", name="Output CSV")).to_be_visible()


def test_a_request_is_deleted_when_that_is_confirmed(
    page: Page, service: Service, module_origin: Origin, complaints: Complaints
) -> None:
    """It is gone from the list; its address says that it was deleted, and stays so."""
    complaints.allow("status of 410")
    request_id = compress(page, csv_of(module_origin.serve("/delete/0.jpg", JPEG)))
    ends(page)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator("#home")).to_be_visible()
    expect(page.locator("#requests")).to_be_visible()
    assert service.get(f"/status/{request_id}").status_code == 410
    expect(page.locator(f"#requests a[href='#{request_id}']")).to_have_count(0)
    page.go_back()
    expect(page.locator("#trouble")).to_contain_text("deleted")
    expect(page.locator("#found")).to_be_hidden()


@pytest.mark.parametrize("fragment", ["0" * 32, "nonsense", "../requests", "%00", "a b/c?d#e"])
def test_an_address_that_leads_nowhere_says_so(
    page: Page, complaints: Complaints, fragment: str
) -> None:
    """And the way back is there."""
    complaints.allow("status of 404")
    page.goto(f"/#{fragment}")
    expect(page.locator("#trouble")).to_be_visible()
    expect(page.locator("#found")).to_be_hidden()
    page.get_by_role("link", name="All requests").click()
    expect(page.locator("#home")).to_be_visible()


def test_a_webhook_is_followed_and_sent_again(page: Page, module_origin: Origin) -> None:
    """Its state stands in one line, as long as it is not yet delivered too."""
    gate = Event()
    hook = module_origin.serve("/hook", b"", until=gate)
    page.get_by_text("Options:").click()
    page.get_by_label("Webhook").fill(hook)
    compress(page, csv_of(module_origin.serve("/hooked.jpg", JPEG)))
    ends(page)
    expect(page.locator("#webhook-state")).to_have_text(re.compile("^Webhook: pending"))
    gate.set()
    expect(page.locator("#webhook-state")).to_have_text("Webhook: delivered, 1 try; answered 200.")
    page.get_by_role("button", name="Send it again").click()
    wait_until(lambda: module_origin.count("/hook") == 2)
    expect(page.locator("#resend")).to_be_visible()
    page.get_by_text("Tries at the webhook").click()
    expect(page.locator("#deliveries li")).to_have_text(
        [
            re.compile(r"try 1 since it was sent again: answered 200 \(\d\.\d s\)$"),
            re.compile(r"try 1: answered 200 \(\d\.\d s\)$"),
        ]
    )


def test_a_reload_and_the_back_button_find_the_request(page: Page, module_origin: Origin) -> None:
    """The address is the request's."""
    request_id = compress(page, csv_of(module_origin.serve("/reload.jpg", JPEG)))
    ends(page)
    page.reload()
    ends(page)
    assert shown_request(page) == request_id
    page.go_back()
    expect(page.locator("#home")).to_be_visible()
    expect(page).to_have_title("CSV image compressor")
    expect(page.locator(f"#requests a[href='#{request_id}']")).to_be_visible()
    page.go_forward()
    ends(page)


def test_two_tabs_follow_their_own_requests(
    context: BrowserContext, page: Page, module_origin: Origin, complaints: Complaints
) -> None:
    """And what the one deletes the other is told of."""
    complaints.allow("status of 410")
    gate = Event()
    url = module_origin.serve("/tabs/late.jpg", JPEG, until=gate)
    request_id = compress(page, csv_of(url))
    other = context.new_page()
    other.goto(f"/#{request_id}")
    expect(other.locator("#state")).to_contain_text("0 of 1")
    gate.set()
    ends(page)
    ends(other)
    other.get_by_role("button", name="Delete").click()
    other.get_by_role("button", name="Delete for good").click()
    expect(other.locator("#home")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator("#trouble")).to_contain_text("deleted")


def test_older_requests_are_a_press_away(page: Page, service: Service) -> None:
    """The list is asked for a page at a time."""
    for n in range(21):
        service.upload(csv_of(f"ftp://a.example/{n}.jpg"))
    page.reload()
    expect(page.locator("#requests li")).to_have_count(10)
    for first in (11, 21):
        page.get_by_role("button", name="Older ones").click()
        expect(page.locator(f"#requests li:nth-child({first}) a")).to_be_focused()
    addresses = page.locator("#requests a").evaluate_all("links => links.map(a => a.hash)")
    assert len(set(addresses)) == len(addresses) >= 21
