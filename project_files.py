"""The files that the project itself brings: the web page, its samples, what clients start from.

They are the same for everybody, so no key is needed for them.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from content_types import content_type
from file_response import is_unchanged
from http_router import not_found, route
from httpd.http_protocol import Response
from storage.local_file import tag_of

if TYPE_CHECKING:
    from http_router import Call, Route
    from httpd.http_protocol import Request

ROOT: Final = Path(__file__).parent
_PAGE: Final = "web/index.html"
_ICON: Final = "web/icon.svg"
_DOCUMENTS: Final = ("postman_collection.json", "test.csv")
# A page under another name of ours shows samples, too, as originals beside what became of them.
_FOR_EVERY_SITE: Final = {"Cross-Origin-Resource-Policy": "cross-origin"}
# Nothing runs but the page's own modules, and no text becomes code. Images are outputs, and the
# originals that they are compared with, wherever these are.
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' http: https:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def project_routes() -> list[Route]:
    """Return the routes that need nothing but these files."""
    return [
        route("/", is_public=True, is_quick=True, GET=_page),
        route("/web/{name}", r"/(web/[a-z-]+\.(?:js|css|svg))", is_public=True, GET=_named),
        route("/samples/{name}", r"/(samples/[a-z0-9-]+\.[a-z]+)", is_public=True, GET=_sample),
        route("/favicon.ico", is_public=True, GET=_icon),
        *(
            route(f"/{name}", f"/({re.escape(name)})", is_public=True, GET=_named)
            for name in _DOCUMENTS
        ),
    ]


def _page(call: Call) -> Response:
    return _file(call.request, _PAGE, {"Content-Security-Policy": _PAGE_POLICY})


def _icon(call: Call) -> Response:
    return _file(call.request, _ICON, {})


def _named(call: Call) -> Response:
    return _file(call.request, call.groups[0], {})


def _sample(call: Call) -> Response:
    return _file(call.request, call.groups[0], _FOR_EVERY_SITE)


def _file(request: Request, name: str, headers: dict[str, str]) -> Response:
    path = ROOT / name
    if not path.is_file():
        raise not_found("the service has no file of this name; / is the page")
    etag = f'"{tag_of(path.stat())}"'
    common = {"ETag": etag, "Cache-Control": "no-cache", "Content-Type": content_type(name)}
    if is_unchanged(request, etag):
        return Response(HTTPStatus.NOT_MODIFIED, b"", common | headers)
    return Response(HTTPStatus.OK, path.read_bytes(), common | headers)
