"""Bombs and liars through the whole service: each ends with its code, and harms nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.bombs import BOMBS
from tests.images import opened, photo, saved
from tests.service import Service, csv_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Database
    from tests.origin import Origin

_SOUND = saved(photo(), "JPEG")
_NAMES = [name for bomb in BOMBS for name in ("a sound one", bomb)]


@pytest.fixture
def service(database: Database, origin: Origin, tmp_path: Path) -> Iterator[Service]:
    """Run the service with limits that are the defaults, and an origin that it may fetch from."""
    settings = {"ALLOWED_SOURCES": origin.authority, "DOWNLOAD_ATTEMPTS": "1"}
    with Service(tmp_path, database, **settings) as running:
        yield running


def test_each_hostile_image_ends_with_its_code(service: Service, origin: Origin) -> None:
    """One upload of them all, with a sound image beside each: its output is as ever."""
    urls = [
        origin.serve(f"/{row}.jpg", BOMBS[name][0] if name in BOMBS else _SOUND)
        for row, name in enumerate(_NAMES)
    ]
    status = service.run(csv_of(*urls))
    images = service.images(status["request_id"])

    assert service.process.poll() is None
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
    ends = {
        name: image["error"] and image["error"]["code"]
        for name, image in zip(_NAMES, images, strict=True)
        if name in BOMBS
    }
    assert ends == {name: code for name, (_, code) in BOMBS.items()}
    sound = [image for name, image in zip(_NAMES, images, strict=True) if name not in BOMBS]
    assert len({image["sha256"] for image in sound}) == 1
    _assert_files_are_sound(service, images)


def _assert_files_are_sound(service: Service, images: list[dict[str, Any]]) -> None:
    """Every file that came out is an image and nothing else, and is served as harmless."""
    for image in images:
        if image["state"] == "failed":
            assert image["output_url"] is None
            continue
        answer = service.get(image["output_url"].removeprefix(service.url))
        assert b"script" not in answer.content
        assert len(answer.content) <= image["bytes_in"]
        assert opened(answer.content).size == (image["width"], image["height"])
        assert answer.headers["Content-Type"] == f"image/{image['format']}"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
