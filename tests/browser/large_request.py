"""A request of very many images, whose ends are written straight into the database.

Its files don't exist: `small_image` answers for them. For tests and benchmarks of the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.images import photo, saved
from tests.service import CSV_HEADER

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.service import Service

JPEG = saved(photo(), "JPEG", quality=50)


def upload(service: Service, images: int) -> str:
    """Upload a CSV of so many images; return the request's id. Nobody fetches them."""
    rows = (f"{n},Product {n},http://a.example/{n}.jpg" for n in range(1, images + 1))
    answer = service.upload("\r\n".join([CSV_HEADER, *rows]))
    request_id: str = answer.json()["request_id"]
    return request_id


def end(service: Service, request_id: str, last: int) -> None:
    """Let the images up to number `last` have ended, every tenth of them with a 404."""
    service.query(
        """with ended as (
               update images
                  set state = case when n %% 10 = 0 then 'failed' else 'succeeded' end,
                      error_code = case when n %% 10 = 0 then 'http_404' end,
                      error_detail = case when n %% 10 = 0 then 'Not there.' end,
                      bytes_in = 200000, bytes_out = 50000, width = 160, height = 120,
                      format = 'jpeg', quality = '80', attempts = 1
                where request_id = %s and n <= %s and state = 'pending' returning state)
           update requests r
              set status = 'processing', started_at = coalesce(r.started_at, now()),
                  succeeded = r.succeeded + ends.succeeded, failed = r.failed + ends.failed,
                  bytes_in = r.bytes_in + 200000 * ends.succeeded,
                  bytes_out = r.bytes_out + 50000 * ends.succeeded,
                  errors_by_code = jsonb_build_object('http_404', r.failed + ends.failed)
             from (select count(*) filter (where state = 'succeeded') as succeeded,
                          count(*) filter (where state = 'failed') as failed from ended) as ends
            where r.id = %s returning id""",
        request_id,
        last,
        request_id,
    )


def small_image(route: Route) -> None:
    """Answer for an output image."""
    route.fulfill(body=JPEG, content_type="image/jpeg")
