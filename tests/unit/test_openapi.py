"""`openapi.json` against the code: what one of them has, the other has."""

from __future__ import annotations

import io
import json
import re
from email.message import Message
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from address_policy import AddressPolicy
from api_description import DESCRIPTION, api_description
from csv_problems import MAX_ERRORS_LISTED, CsvCode
from csv_validator import CsvLimits, ProductReader
from errors import ErrorCode, HttpError
from http_api import Api
from idempotency import HEADER, MAX_KEY_CHARACTERS, REPLAYED_HEADER, parse_key
from image_queue import ImageState
from paging import DEFAULT_LIMIT, MAX_LIMIT, parse_image_place, parse_request_cursor
from request_options import (
    MAX_DIMENSION,
    MAX_OUTPUT_BYTES,
    MAX_WEBHOOK_URL_CHARACTERS,
    Effort,
    OutputFormat,
    Priority,
    RequestOptions,
    parse_options,
)
from request_queue import RequestStatus
from request_view import WAITING
from settings import Settings
from storage.folder_store import FolderStore
from webhook import WebhookState, event_body

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from http_router import Route

DOCUMENT: dict[str, Any] = json.loads(DESCRIPTION.read_bytes())
COMPONENTS = DOCUMENT["components"]
SCHEMAS = COMPONENTS["schemas"]
UPLOAD = DOCUMENT["paths"]["/upload"]["post"]
OPTIONS = {name for name in SCHEMAS["UploadForm"]["properties"] if name != "file"}
POLICY = AddressPolicy()
ID = "0123456789abcdef" * 2
# What the page alone asks for is no part of the API.
OF_THE_PAGE = {"/web/{name}", "/favicon.ico"}
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
PATTERN_STRINGS = {
    name: st.from_regex(pattern, fullmatch=True)
    for name, pattern in {
        "csv": SCHEMAS["Csv"]["pattern"],
        "webhook_url": SCHEMAS["WebhookUrl"]["pattern"],
        "image_cursor": SCHEMAS["ImageCursor"]["pattern"],
        "request_cursor": SCHEMAS["RequestCursor"]["pattern"],
        "key": COMPONENTS["parameters"]["IdempotencyKey"]["schema"]["pattern"],
    }.items()
}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and description of every operation."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item[method]


def option_schema(option: str) -> dict[str, Any]:
    """Return what an option may be, when it is not left empty."""
    value, unfilled = SCHEMAS["UploadForm"]["properties"][option]["anyOf"]
    assert unfilled == {"$ref": "#/components/schemas/Unfilled"}
    schema: dict[str, Any] = SCHEMAS[value["$ref"].rpartition("/")[2]]
    return schema


def is_taken(option: str, value: Any) -> bool:
    """Tell whether the service takes a value of an option, as a form has it."""
    try:
        parse_options({option: value if isinstance(value, str) else json.dumps(value)}, POLICY)
    except HttpError:
        return False
    return True


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Route]:
    """Give the routes of the service; its database is asked for nothing."""
    monkeypatch.chdir(tmp_path)  # no `.env`
    api = Api(Settings(), None, FolderStore(tmp_path))  # type: ignore[arg-type]
    found: list[Route] = api.answer.__self__._routes  # type: ignore[attr-defined]
    return found


def test_it_is_openapi() -> None:
    """The document is sound OpenAPI 3.1, whose references all lead somewhere."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    used = set(re.findall(r'"#/components/([^"]+)"', json.dumps(DOCUMENT)))
    kinds = set(COMPONENTS) - {"securitySchemes"}
    assert used == {f"{kind}/{name}" for kind in kinds for name in COMPONENTS[kind]}


def test_every_route_is_described(routes: list[Route]) -> None:
    """Each path has the methods of the route that answers it, and its need of a key."""
    undescribed = {route.template for route in routes} - OF_THE_PAGE
    for path, item in DOCUMENT["paths"].items():
        sample = path.replace("{request_id}/{name}", f"{ID}/{ID}-1.jpg")
        sample = sample.replace("{request_id}", ID).replace("{name}", "vase.jpg")
        route = next(route for route in routes if route.pattern.fullmatch(sample))
        assert {method.upper() for method in METHODS & set(item)} == set(route.methods), path
        for method in METHODS & set(item):
            assert (item[method].get("security") == []) == route.is_public, path
        undescribed.discard(route.template)
    assert not undescribed


def test_every_operation_reads_well() -> None:
    """Each has a summary, a name of its own, a tag that is explained, and every kind of answer."""
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, _, operation in operations():
        assert not operation["summary"].endswith("."), path
        assert set(operation["tags"]) <= tags
        assert "default" in operation["responses"], path
        assert operation.get("security") == [] or "401" in operation["responses"], path


def test_every_option_is_described() -> None:
    """Fields of the form and parameters of the query are the options, by the same schemas."""
    defaults = RequestOptions().to_json() | {"dry_run": RequestOptions().dry_run}
    assert set(defaults) == OPTIONS
    references = [parameter["$ref"].rpartition("/")[2] for parameter in UPLOAD["parameters"]]
    queried = [COMPONENTS["parameters"][reference] for reference in references]
    fields = SCHEMAS["UploadForm"]["properties"]
    assert {each["name"]: each["schema"] for each in queried} == {
        name: fields[name] for name in OPTIONS
    }
    assert {each["in"] for each in queried} == {"query"}
    for option, default in defaults.items():
        assert option_schema(option).get("default") == default, option
    assert set(SCHEMAS["Options"]["properties"]) == OPTIONS - {"dry_run"}


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_values_of_an_option(option: str) -> None:
    """What the document lets in is taken, up to its bounds, and nothing beyond them."""
    assert is_taken(option, "")
    for schema in option_schema(option).get("anyOf", [option_schema(option)]):
        if "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            assert all(is_taken(option, value) for value in values)
            assert not is_taken(option, "another")
        elif schema["type"] == "integer":
            assert is_taken(option, schema["minimum"])
            assert is_taken(option, schema["maximum"])
            assert not is_taken(option, schema["minimum"] - 1)
            assert not is_taken(option, schema["maximum"] + 1)
        elif schema["type"] == "boolean":
            assert is_taken(option, value=True)
            assert is_taken(option, value=False)
        else:
            assert is_taken(option, schema.get("default") or schema["examples"][0])


def test_closed_vocabularies() -> None:
    """Every word of ours that clients meet is listed, and no other."""
    events = {
        json.loads(event_body({"status": state, "finished_at": ""}))["type"]
        for state in RequestStatus
    }
    problem, report = SCHEMAS["CsvProblem"]["properties"], SCHEMAS["WebhookReport"]["properties"]
    assert problem["code"] == {"$ref": "#/components/schemas/CsvCode"}
    for listed, known in (
        (SCHEMAS["Format"]["enum"], OutputFormat),
        (SCHEMAS["Effort"]["enum"], Effort),
        (SCHEMAS["Priority"]["enum"], Priority),
        (SCHEMAS["RequestStatus"]["enum"], RequestStatus),
        (SCHEMAS["ImageState"]["enum"], ImageState),
        (SCHEMAS["ErrorCode"]["anyOf"][0]["enum"], ErrorCode),
        (SCHEMAS["CsvCode"]["enum"], CsvCode),
        (report["state"]["enum"], [*WebhookState, WAITING]),
        (SCHEMAS["Event"]["properties"]["type"]["enum"], events),
    ):
        assert len(listed) == len(set(listed))
        assert set(listed) == set(known)


def test_bounds() -> None:
    """The numbers of the document are those of the code."""
    parameters = COMPONENTS["parameters"]
    limit = parameters["Limit"]["schema"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, MAX_LIMIT, DEFAULT_LIMIT)
    for page in ("ImagePage", "RequestPage"):
        lists = [each for each in SCHEMAS[page]["properties"].values() if "items" in each]
        assert [each["maxItems"] for each in lists] == [MAX_LIMIT]
    assert SCHEMAS["MaxWidth"]["maximum"] == SCHEMAS["MaxHeight"]["maximum"] == MAX_DIMENSION
    assert SCHEMAS["MaxBytes"]["maximum"] == MAX_OUTPUT_BYTES
    assert SCHEMAS["WebhookUrl"]["maxLength"] == MAX_WEBHOOK_URL_CHARACTERS
    errors = SCHEMAS["UploadProblem"]["allOf"][1]["properties"]["errors"]
    warnings = SCHEMAS["DryRunResult"]["properties"]["warnings"]
    assert errors["maxItems"] == warnings["maxItems"] == MAX_ERRORS_LISTED


def test_headers_of_idempotent_uploads() -> None:
    """The names of the headers are those of the code, and the text says how long a key may be."""
    assert UPLOAD["x-optional-header"] == {"$ref": "#/components/parameters/IdempotencyKey"}
    assert COMPONENTS["parameters"]["IdempotencyKey"]["name"] == HEADER
    assert REPLAYED_HEADER in UPLOAD["responses"]["202"]["headers"]
    assert f"1 to {MAX_KEY_CHARACTERS} visible ASCII characters" in UPLOAD["description"]


@given(PATTERN_STRINGS["csv"], st.booleans())
def test_csvs_of_the_pattern_are_taken(text: str, strict: bool) -> None:  # noqa: FBT001  # drawn
    """Whatever the document calls a CSV is one, also under `strict`."""
    limits = CsvLimits(max_rows=3, max_urls_per_row=3)
    assert list(ProductReader(io.BytesIO(text.encode()), limits, strict=strict))


@given(PATTERN_STRINGS["webhook_url"].filter(lambda url: len(url) <= MAX_WEBHOOK_URL_CHARACTERS))
def test_webhook_urls_of_the_pattern_are_taken(url: str) -> None:
    """Whatever the document calls a webhook's URL may be asked for."""
    assert is_taken("webhook_url", url)


@given(PATTERN_STRINGS["image_cursor"], PATTERN_STRINGS["request_cursor"])
def test_cursors_of_the_pattern_are_taken(image: str, request: str) -> None:
    """Whatever looks like a cursor is a place in the list."""
    assert parse_image_place({"cursor": image.strip()}) < 2**31
    assert parse_request_cursor({"cursor": request.strip()})


@given(PATTERN_STRINGS["key"])
def test_keys_of_the_pattern_are_taken(key: str) -> None:
    """Whatever the document calls a key of an upload is one."""
    headers = Message()
    headers[HEADER] = key.strip()
    assert parse_key(headers)


def test_examples_are_right() -> None:
    """Each example of a body is what its schema describes."""
    count = 0
    for where in (DOCUMENT["paths"], DOCUMENT["webhooks"], COMPONENTS["responses"]):
        for media in _media(where):
            schema = media["schema"] | {"components": COMPONENTS}
            named = [example["value"] for example in media.get("examples", {}).values()]
            for example in named + [media[name] for name in ("example",) if name in media]:
                OAS31Validator(schema).validate(example)
                count += 1
    assert count > 10


def _media(node: Any) -> Iterator[dict[str, Any]]:
    """Yield what is said of every body below a place in the document."""
    if isinstance(node, dict):
        yield from node.get("content", {}).values()
        for value in node.values():
            yield from _media(value)


@pytest.mark.parametrize("has_keys", [True, False])
@pytest.mark.parametrize("sends_webhooks", [True, False])
def test_a_service_describes_what_it_offers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, has_keys: bool, sends_webhooks: bool
) -> None:
    """A key is asked for where there are keys, a webhook's URL offered where there is a secret."""
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"api_keys": "0" * 64} if has_keys else {}
    if sends_webhooks:
        given["webhook_secret"] = f"whsec_{'A' * 32}"
    described = json.loads(api_description(Settings.model_validate(given)))
    OpenAPIV31SpecValidator(described).validate()
    assert ("security" in described) is has_keys
    fields = described["components"]["schemas"]["UploadForm"]["properties"]
    assert ("webhook_url" in fields) is sends_webhooks
    parameters = described["paths"]["/upload"]["post"]["parameters"]
    assert len(parameters) == len(fields) - 1
