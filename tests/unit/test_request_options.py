"""The options of an upload: what is taken, what is refused, and that they travel whole."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from address_policy import AddressPolicy
from errors import HttpError
from request_options import (
    MAX_DIMENSION,
    MAX_OUTPUT_BYTES,
    Effort,
    ImageOptions,
    OutputFormat,
    Priority,
    RequestOptions,
    parse_options,
)

WEBHOOK_POLICY = AddressPolicy(allowed_sources=["inner:8080"])
DEFAULTS = {
    "format": "keep",
    "quality": "auto",
    "effort": "balanced",
    "max_width": None,
    "max_height": None,
    "max_bytes": None,
    "background": "#ffffff",
    "webhook_url": None,
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
    assert parse_options(given, WEBHOOK_POLICY) == options


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[("format", text, OutputFormat(text)) for text in OutputFormat],
        *[("effort", text, Effort(text)) for text in Effort],
        *[("quality", "1", 1), ("quality", "100", 100), ("quality", "auto", None)],
        *[("max_width", "1", 1), ("max_width", str(MAX_DIMENSION), MAX_DIMENSION)],
        *[("max_height", " 800 ", 800), ("max_bytes", "200000", 200_000)],
        ("max_bytes", str(MAX_OUTPUT_BYTES), MAX_OUTPUT_BYTES),
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
        ("webhook_url", "https://shop.example/hook", "WEBHOOK_SECRET is not set"),
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


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://shop.example/hook?a=b", "https://shop.example/hook?a=b"),
        ("https://user:secret@shop.example#part", "https://shop.example/"),
        ("http://Inner:8080/a b", "http://inner:8080/a%20b"),
        ("https://shop.example/" + "a" * 2027, "https://shop.example/" + "a" * 2027),
    ],
)
def test_a_webhook_s_url_is_taken_without_credentials(text: str, url: str) -> None:
    """What is kept is what is sent to, by the rules of images; nothing secret gets any further."""
    options = parse_options({"webhook_url": text}, WEBHOOK_POLICY)
    assert options == RequestOptions(webhook_url=url)
    assert options.to_json()["webhook_url"] == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://secret@shop.example/", "does not start with http:// or https://"),
        ("shop.example/hook?secret", "does not start with http:// or https://"),
        ("https://secret@/hook", "no valid host and port"),
        ("https://secret@shop.example:22/", "names port 22"),
        ("https://secret@10.0.0.1/", "not a public one"),
        ("http://secret@169.254.169.254/", "not a public one"),
        ("https://shop.example/secret" + "a" * 2022, "longer than 2048 characters"),
    ],
)
def test_a_webhook_s_url_is_held_to_the_rules_of_images(text: str, reason: str) -> None:
    """What could never be sent to is refused at once, and not repeated."""
    with pytest.raises(HttpError, match=r"^webhook_url: ") as caught:
        parse_options({"webhook_url": text}, WEBHOOK_POLICY)
    assert caught.value.status == 422
    assert reason in caught.value.detail
    assert "secret" not in caught.value.detail


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
    request = RequestOptions(
        image=image, webhook_url="http://a/", strict=True, priority=Priority.HIGH
    )
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
