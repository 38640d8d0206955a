"""The options of an upload: what is taken, what is refused, and that they travel whole."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from errors import HttpError
from request_options import (
    MAX_DIMENSION,
    Effort,
    ImageOptions,
    OutputFormat,
    Priority,
    RequestOptions,
    parse_options,
)

DEFAULTS = {
    "format": "keep",
    "quality": "auto",
    "effort": "balanced",
    "max_width": None,
    "max_height": None,
    "max_bytes": None,
    "background": "#ffffff",
    "strict": False,
    "priority": "normal",
}


@pytest.mark.parametrize("given", [{}, dict.fromkeys([*DEFAULTS, "dry_run", "webhook_url"], "  ")])
def test_what_is_left_out_has_its_default(given: dict[str, str]) -> None:
    """An option that is missing, or empty as browsers send it, has the promised default."""
    options = parse_options(given)
    assert options == RequestOptions()
    assert options.to_json() == DEFAULTS
    assert not options.dry_run


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[("format", text, OutputFormat(text)) for text in OutputFormat],
        *[("effort", text, Effort(text)) for text in Effort],
        *[("quality", "1", 1), ("quality", "100", 100), ("quality", "auto", None)],
        *[("max_width", "1", 1), ("max_width", str(MAX_DIMENSION), MAX_DIMENSION)],
        *[("max_height", " 800 ", 800), ("max_bytes", "200000", 200_000)],
        *[("background", "#00ff7F", "#00ff7f")],
    ],
)
def test_an_image_s_option_is_taken(name: str, text: str, value: Any) -> None:
    """Each value that the contract lists is taken, with white space around it."""
    options = parse_options({name: text}).image
    assert getattr(options, name) == value
    assert type(getattr(options, name)) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[("strict", "true", True), ("strict", "false", False)],
        *[("dry_run", "true", True), ("dry_run", "false", False)],
        *[("priority", text, Priority(text)) for text in Priority],
    ],
)
def test_a_request_s_option_is_taken(name: str, text: str, value: Any) -> None:
    """Options of the whole upload don't get mixed up with those of its images."""
    options = parse_options({name: text})
    assert getattr(options, name) == value
    assert options.image == ImageOptions()


@pytest.mark.parametrize(
    ("name", "text", "takes"),
    [
        ("format", "gif", "keep, jpeg, png, webp, avif"),
        ("format", "JPEG", "keep, jpeg, png, webp, avif"),
        *[("quality", text, "1 to 100") for text in ("0", "101", "-1", "+5", "8.5", "best", "٨")],
        ("effort", "most", "fast, balanced, best"),
        *[("max_width", text, "1 to 65535") for text in ("0", "65536", "1e3", "1_000")],
        ("max_height", "9" * 5000, "1 to 65535"),
        *[("max_bytes", text, "1 to 1000000000000") for text in ("0", "100k", "9" * 13)],
        *[("background", text, "#ffffff") for text in ("white", "#fff", "#ffffff00", "ffffff")],
        *[("strict", text, "true nor false") for text in ("1", "yes", "True")],
        ("dry_run", "on", "true nor false"),
        ("priority", "urgent", "low, normal, high"),
        ("webhook_url", "https://shop.example/hook", "no webhooks"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, text: str, takes: str) -> None:
    """422 names the option and what it takes, and shows no more of the value than is useful."""
    with pytest.raises(HttpError) as caught:
        parse_options({name: text})
    assert caught.value.status == 422
    assert caught.value.detail.startswith(f"{name}: ")
    assert takes in caught.value.detail
    assert len(caught.value.detail) < 250


@pytest.mark.parametrize("name", ["qualty", "Format", "", "file", "image"])
def test_an_unknown_option_is_refused(name: str) -> None:
    """A typing error is told with the names that there are, not passed over."""
    with pytest.raises(HttpError, match=r"unknown option .*; known are background, ") as caught:
        parse_options({"quality": "80", name: ""})
    assert caught.value.status == 422
    assert repr(name) in caught.value.detail


@pytest.mark.parametrize(
    "image",
    [
        ImageOptions(),
        ImageOptions(
            format=OutputFormat.AVIF,
            quality=77,
            effort=Effort.BEST,
            max_width=800,
            max_height=600,
            max_bytes=90_000,
            background="#123456",
        ),
    ],
)
def test_options_travel_as_json(image: ImageOptions) -> None:
    """What a decoder or a later worker reads back is what the upload asked for."""
    request = RequestOptions(image=image, strict=True, priority=Priority.HIGH)
    assert ImageOptions.from_json(json.loads(json.dumps(image.to_json()))) == image
    assert ImageOptions.from_json(json.loads(json.dumps(request.to_json()))) == image
    assert set(image.to_json()) == {field.name for field in fields(ImageOptions)}


@pytest.mark.parametrize(
    ("asked", "is_only_compression"),
    [
        ({}, True),
        ({"quality": "80", "effort": "best", "background": "#000000"}, True),
        ({"format": "jpeg"}, False),
        ({"max_width": "10"}, False),
        ({"max_height": "10"}, False),
        ({"max_bytes": "10"}, False),
    ],
)
def test_the_original_is_an_answer_to_compression_only(
    asked: dict[str, str], *, is_only_compression: bool
) -> None:
    """Whoever asks for a format or a size must not get the original pixels instead."""
    assert parse_options(asked).image.asks_only_compression is is_only_compression
