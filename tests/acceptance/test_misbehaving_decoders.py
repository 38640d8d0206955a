"""Whatever becomes of the decoder of one image, the service and the other images don't notice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.misbehaving_decoder import MARK
from tests.images import photo, saved
from tests.service import Service, WithDecoder, csv_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database
    from tests.origin import Origin

DECODER = Path(__file__).with_name("misbehaving_decoder.py")
# An image that makes its decoder idle is tried thrice: the machine may have been at fault.
EXPECTED = {
    "kill itself": "compress_crash",
    "segfault": "compress_crash",
    "exit": "compress_crash",
    "eat memory": "compress_crash",
    "spin": "compress_timeout",
    "sleep": "compress_crash",
    "close its pipe": "compress_crash",
    "write garbage": "compress_crash",
    "say a huge length": "compress_crash",
    "say a negative length": "compress_crash",
    "say a huge message": "compress_crash",
    "say a short length": "compress_crash",
    "say a long length": "compress_crash",
    "answer twice": "compress_crash",
    "answer something else": "compress_crash",
    "answer with a page": "compress_crash",
}


@pytest.fixture
def service(database: Database, origin: Origin, tmp_path: Path) -> Iterator[Service]:
    """Run the service, with decoders that do what images tell them."""
    with WithDecoder(
        tmp_path,
        database,
        DECODER,
        ALLOWED_SOURCES=origin.authority,
        COMPRESS_PROCESSES="2",
        COMPRESS_SECONDS="1",
        MAX_IMAGE_PIXELS="1000000",  # and with it the memory that can be eaten
    ) as running:
        yield running


def outputs(service: Service, request_id: str) -> dict[str, bytes]:
    """Return the bytes that an image was made into, by its input URL, if it was."""
    return {
        image["input_url"]: service.get(image["output_url"].removeprefix(service.url)).content
        for image in service.images(request_id)
        if image["output_url"]
    }


def test_each_image_fails_alone(service: Service, origin: Origin) -> None:
    """Crashes, hunger, hanging and lies cost one image each; the others have the very same bytes."""
    good = [
        origin.serve(f"/good-{index}.jpg", saved(photo(160 + index, 120), "JPEG"))
        for index in range(len(EXPECTED))
    ]
    bad = {
        origin.serve(
            f"/bad-{index}.jpg", saved(photo(), "JPEG", comment=MARK + act.encode() + b";")
        ): act
        for index, act in enumerate(EXPECTED)
    }
    undisturbed = outputs(service, service.run(csv_of(*good))["request_id"])
    assert set(undisturbed) == set(good)

    mixed = service.run(csv_of(*[url for pair in zip(good, bad, strict=True) for url in pair]))

    images = service.images(mixed["request_id"])
    codes = {bad[image["input_url"]]: image["error"]["code"] for image in images if image["error"]}
    assert codes == EXPECTED
    assert outputs(service, mixed["request_id"]) == undisturbed
    assert service.process.poll() is None
    assert "Traceback" not in service.log.read_text()
    assert service.stop() == 0
