"""What `/openapi.json` says: the project's `openapi.json`, less what this service does not offer.

A client that reads it shall not ask for a key where none is wanted, nor offer an option that is
always refused here.
"""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from file_response import is_unchanged
from http_router import route
from httpd.http_protocol import Response

if TYPE_CHECKING:
    from http_router import Call, Route
    from settings import Settings

DESCRIPTION: Final = Path(__file__).with_name("openapi.json")


def description_route(settings: Settings) -> Route:
    """Return the route of the document; it stays the same for as long as the process lives."""
    body = api_description(settings)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Content-Type": "application/json", "Cache-Control": "no-cache", "ETag": etag}

    def answer(call: Call) -> Response:
        if is_unchanged(call.request, etag):
            return Response(HTTPStatus.NOT_MODIFIED, b"", headers)
        return Response(HTTPStatus.OK, body, headers)

    return route("/openapi.json", is_public=True, is_quick=True, GET=answer)


def api_description(settings: Settings) -> bytes:
    """Return the OpenAPI document as it holds under these settings."""
    document: dict[str, Any] = json.loads(DESCRIPTION.read_bytes())
    if not settings.api_keys:
        del document["security"]
    if settings.webhook_secret is None:
        _leave_out_option(document, "WebhookUrl", "webhook_url")
    return json.dumps(document, ensure_ascii=False).encode()


def _leave_out_option(document: dict[str, Any], component: str, option: str) -> None:
    parameters: list[dict[str, str]] = document["paths"]["/upload"]["post"]["parameters"]
    parameters.remove({"$ref": f"#/components/parameters/{component}"})
    del document["components"]["schemas"]["UploadForm"]["properties"][option]
