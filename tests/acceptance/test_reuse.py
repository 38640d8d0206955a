"""No second work: what an earlier request has made of an unchanged image, a later one takes over."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.images import photo, saved
from tests.origin import Reply
from tests.service import Service, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from database_helper import Database
    from tests.origin import Origin, RecordedRequest

JPEG = saved(photo(), "JPEG", quality=95)
OTHER = saved(photo(150, 110), "JPEG", quality=95)
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
KEYS = ("first key", "second key")


@pytest.fixture(scope="module")
def keyed(
    new_database: Callable[[], Database],
    module_origin: Origin,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """Run a service that several shops use."""
    digests = ",".join(hashlib.sha256(key.encode()).hexdigest() for key in KEYS)
    with Service(
        tmp_path_factory.mktemp("keyed"),
        new_database(),
        ALLOWED_SOURCES=module_origin.authority,
        API_KEYS=digests,
    ) as running:
        yield running


class Shop:
    """Who uploads again and again, with a key or without."""

    def __init__(self, service: Service, key: str | None = None) -> None:
        self.service = service
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def run(self, *urls: str, **options: str) -> list[dict[str, Any]]:
        """Have the images of a request made, all of them well; return what is said of them."""
        answer = self.service.upload(csv_of(",".join(urls)), options, headers=self.headers)
        path = answer.json()["status_url"].removeprefix(self.service.url)
        self.service.wait_until(lambda: self.get(path)["finished_at"])
        assert self.get(path)["status"] == "completed"
        images: list[dict[str, Any]] = self.get(f"{path}/images")["images"]
        return images

    def get(self, path: str) -> dict[str, Any]:
        """Ask for a document."""
        document: dict[str, Any] = self.service.get(path, headers=self.headers).json()
        return document

    def file(self, image: dict[str, Any]) -> Path:
        """Return where an output lies."""
        path: str = image["output_url"].removeprefix(self.service.url)
        return self.service.folder / path.lstrip("/")


@pytest.fixture
def shop(service: Service) -> Shop:
    """Give the user of a service without keys."""
    return Shop(service)


def request_id(image: dict[str, Any]) -> str:
    """Return the id of an image's request."""
    found: str = image["output_url"].split("/")[-2]
    return found


def asked(origin: Origin, path: str) -> list[RecordedRequest]:
    """Return the requests for a path."""
    return [request for request in origin.requests if request.path == path]


@pytest.mark.parametrize(
    ("path", "validators", "condition"),
    [
        ("/tag.jpg", {"ETag": '"1"'}, ("if-none-match", '"1"')),
        ("/weak.jpg", {"ETag": 'W/"1"'}, ("if-none-match", 'W/"1"')),
        ("/date.jpg", {"Last-Modified": DATE}, ("if-modified-since", DATE)),
        ("/bare.jpg", {}, None),
    ],
)
def test_an_unchanged_image_is_stored_once(
    shop: Shop,
    module_origin: Origin,
    path: str,
    validators: dict[str, str],
    condition: tuple[str, str] | None,
) -> None:
    """A later request asks whether it has changed, or sees it in the bytes; likewise a third one.
    All is said of the image that was said of the first, and its file is the same.
    """
    url = module_origin.serve(path, JPEG, headers=validators)
    (first,), *later = [shop.run(url) for _ in range(3)]
    assert first["reused"] is False
    served = [shop.service.get(first["output_url"].removeprefix(shop.service.url)).content]
    for (image,) in later:
        assert image == first | {"reused": True, "output_url": image["output_url"]}
        assert shop.file(image).samefile(shop.file(first))
        served.append(shop.service.get(image["output_url"].removeprefix(shop.service.url)).content)
    assert len(set(served)) == 1
    assert len(served[0]) == first["bytes_out"] < len(JPEG)
    conditions = [
        request.headers.get(condition[0]) if condition else None
        for request in asked(module_origin, path)
    ]
    again = condition[1] if condition else None
    assert conditions == [None, again, again]


def test_status_and_report_say_the_same(shop: Shop, module_origin: Origin) -> None:
    """Bytes and savings are those of the images, whoever made them."""
    urls = [module_origin.serve(f"/same-{n}.jpg", data) for n, data in enumerate((JPEG, OTHER))]
    ids = [request_id(shop.run(*urls, urls[0])[0]) for _ in range(2)]
    statuses = [shop.get(f"/status/{each}") for each in ids]
    for name in ("bytes_in", "bytes_out", "saved_percent", "errors_by_code"):
        assert statuses[0][name] == statuses[1][name]
    reports = [
        shop.service.get(f"/static/{each}-report.csv").text.replace(each, "ID") for each in ids
    ]
    assert reports[0] == reports[1]


def test_a_url_that_stands_twice_is_asked_for_once(shop: Shop, module_origin: Origin) -> None:
    """Also where an earlier request has it: the second one repeats the first."""
    url = module_origin.serve("/twice.jpg", JPEG, headers={"ETag": '"1"'})
    (first,) = shop.run(url)
    images = shop.run(url, url)
    assert [image["reused"] for image in images] == [True, True]
    assert module_origin.count("/twice.jpg") == 2
    assert all(shop.file(image).samefile(shop.file(first)) for image in images)


def test_a_changed_image_is_made_anew(shop: Shop, module_origin: Origin) -> None:
    """Other bytes, with or without another tag; the earlier output stays as it was."""
    for path, tags in (("/new-tag.jpg", ('"1"', '"2"')), ("/no-tag.jpg", ("", ""))):
        replies = [
            Reply(data, headers={"ETag": tag})
            for data, tag in zip((JPEG, OTHER), tags, strict=True)
        ]
        url = module_origin.serve_in_turn(path, *replies)
        first, second, third = (shop.run(url)[0] for _ in range(3))
        assert [image["reused"] for image in (first, second, third)] == [False, False, True]
        assert first["width"] == 160
        assert second["width"] == third["width"] == 150
        assert shop.file(third).samefile(shop.file(second))
        assert hashlib.sha256(shop.file(first).read_bytes()).hexdigest() == first["sha256"]


def test_other_options_make_another_image(shop: Shop, module_origin: Origin) -> None:
    """It is fetched without a condition; what does not decide on the output is no other option."""
    url = module_origin.serve("/options.jpg", JPEG, headers={"ETag": '"1"'})
    several = [{}, {"quality": "30"}, {"priority": "high"}, {"format": "webp"}, {"quality": "30"}]
    images = [shop.run(url, **options)[0] for options in several]
    assert [image["reused"] for image in images] == [False, False, True, False, True]
    conditions = [r.headers.get("if-none-match") for r in asked(module_origin, "/options.jpg")]
    assert conditions == [None, None, '"1"', None, '"1"']
    assert shop.file(images[4]).samefile(shop.file(images[1]))


def test_nobody_reuses_another_owner_s_image(keyed: Service, module_origin: Origin) -> None:
    """Who has no key of that owner asks the origin as if nobody had been there."""
    url = module_origin.serve("/owner.jpg", JPEG, headers={"ETag": '"1"'})
    shops = [Shop(keyed, key) for key in KEYS]
    images = [shops[n].run(url)[0] for n in (0, 1, 0, 1)]
    assert [image["reused"] for image in images] == [False, False, True, True]
    conditions = [r.headers.get("if-none-match") for r in asked(module_origin, "/owner.jpg")]
    assert conditions == [None, None, '"1"', '"1"']
    files = [shops[0].file(image) for image in images]
    assert files[2].samefile(files[0])
    assert files[3].samefile(files[1])
    assert not files[1].samefile(files[0])


def test_a_deletion_takes_nothing_from_others(shop: Shop, module_origin: Origin) -> None:
    """What took a file over keeps it, and lends it on; when all are deleted nothing is left."""
    url = module_origin.serve("/deleted.jpg", JPEG, headers={"ETag": '"1"'})
    images = [shop.run(url)[0] for _ in range(2)]

    def delete(image: dict[str, Any]) -> None:
        shop.service.request("DELETE", f"/status/{request_id(image)}")
        purged = "select 1 from deleted_requests where id = %s and purged_at is not null"
        shop.service.wait_until(lambda: shop.service.query(purged, request_id(image)))
        assert not shop.file(image).exists()

    delete(images[0])
    assert shop.file(images[1]).stat().st_nlink == 1
    images += shop.run(url)
    assert images[2]["reused"] is True
    delete(images[1])
    digest = hashlib.sha256(shop.file(images[2]).read_bytes()).hexdigest()
    assert digest == images[0]["sha256"]
    delete(images[2])
    (image,) = shop.run(url)
    assert image == images[0] | {"output_url": image["output_url"]}
    assert "if-none-match" not in asked(module_origin, "/deleted.jpg")[-1].headers


def test_a_retry_takes_over_what_was_made_meanwhile(shop: Shop, module_origin: Origin) -> None:
    """It is asked for as by any later request."""
    module_origin.serve_in_turn("/retry.jpg", Reply(status=404), Reply(JPEG))
    url = module_origin.url("/retry.jpg")
    answer = shop.service.upload(csv_of(url)).json()
    assert shop.service.finish(answer["request_id"])["status"] == "failed"
    (made,) = shop.run(url)
    shop.service.request("POST", f"/status/{answer['request_id']}/retry")
    assert shop.service.finish(answer["request_id"])["status"] == "completed"
    (image,) = shop.service.images(answer["request_id"])
    assert image["reused"] is True
    assert shop.file(image).samefile(shop.file(made))


def test_a_304_without_a_question_fails_the_image(shop: Shop, module_origin: Origin) -> None:
    """Nobody knows what should be unchanged."""
    url = module_origin.serve("/unasked.jpg", status=304)
    status = shop.service.run(csv_of(url))
    assert status["errors_by_code"] == {"http_304": 1}
    assert shop.service.images(status["request_id"])[0]["error"]["http_status"] == 304
