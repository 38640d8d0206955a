"""Where fuzzing begins: a few inputs for each target, made by code, and the words in them."""

from __future__ import annotations

import codecs
import re
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from codec.container_structure import orientation_tiff
from decoder.decoder_protocol import pack
from paging import image_cursor, request_cursor
from tests.images import animation, photo, saved

_CSV: Final = "Serial Number,Product Name,Input Image Urls\r\n"
_ROW: Final = '1,Vase,"http://a/1.jpg, https://b/2,3.png"\r\n'
_OTHER: Final = (
    'S. No.;Size;product name;URLs\n\n"02";"a ""b""\n";=1+1;http://a/?x=1,2\n007;;-;ftp://x\n'
)
_FILE: Final = 'Content-Disposition: form-data; name="file"; filename="a.csv"\r\n'
_OPTION: Final = '--XyZ\r\nContent-Disposition: form-data; name="quality"\r\n\r\n80\r\n'
_FORM: Final = f"{_OPTION}--XyZ\r\n{_FILE}Content-Type: text/csv\r\n\r\n{_CSV}{_ROW}\r\n--XyZ--\r\n"
_URLS: Final = (
    "http://user:pass@shop.example:80/a%20b?c=d#e",
    "HTTPS://[2606:4700::1111]:443/ü",
    "http://0x7f.1/",
    "http://xn--nxasmq6b.example./..//%2e\\x",
    "http://①.②.com/%",
)
_ADDRESSES: Final = (
    "93.184.216.34",
    "::ffff:93.184.216.34",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "2606:4700::5efe:7f00:1",
    "fd00:ec2::254",
    "::127.0.0.1",
    "fe80::1%1",
)
_GOOD_REPLY: Final = {"format": "jpeg", "width": 40, "height": 30, "quality": "80"}
_BAD_REPLY: Final = {"code": "truncated", "detail": "half an image\n"}
_GET: Final = "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n"
_POST: Final = (
    "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nabcde"
)
_ODD: Final = (
    "HEAD http://a/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "\r\nGET / HTTP/1.1\nHost: a\nConnection: close\nTransfer-Encoding: chunked\n\n0\r\n\r\n",
)
_ID: Final = "0a" * 16


def _requests() -> list[str]:
    about = "Host: 127.0.0.1:8000\r\nX-Forwarded-For: 93.184.216.34, 127.0.0.1\r\n"
    site = "Origin: http://127.0.0.1:8000\r\nSec-Fetch-Site: same-origin\r\n"
    body = f"{_CSV}{_ROW}"
    plain = f"Content-Type: text/csv\r\nContent-Length: {len(body)}\r\n"
    form = f"Content-Type: multipart/form-data; boundary=XyZ\r\nContent-Length: {len(_FORM)}\r\n"
    page = f"GET /status/{_ID}/images?{_cursors()[0]}&state=failed HTTP/1.1\r\n{about}\r\n"
    return [
        f"POST /upload?dry_run=true HTTP/1.1\r\n{about}{site}{plain}\r\n{body}",
        f'POST /upload?strict=true HTTP/1.1\r\n{about}Idempotency-Key: "a"\r\n{form}\r\n{_FORM}',
        f"GET / HTTP/1.1\r\n{about}If-None-Match: *\r\n\r\nHEAD /web/app.js HTTP/1.1\r\n{about}\r\n",
        f"GET /requests?{_cursors()[1]} HTTP/1.1\r\n{about}Authorization: Bearer k\r\n\r\n",
        page,
        f"GET /uploads/{_ID}/{_ID}-1.jpg HTTP/1.1\r\n{about}Range: bytes=0-\r\n\r\n",
        f"GET /static/{_ID}-report.csv HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        f"DELETE /status/{_ID} HTTP/1.1\r\n{about}\r\n",
        f"OPTIONS * HTTP/1.1\r\n{about}\r\nGET /samples/..%2f/metrics HTTP/1.0\r\n\r\n",
    ]


def _images() -> list[bytes]:
    picture = photo(9, 7)
    about = {"exif": b"Exif\0\0" + orientation_tiff(6), "comment": b"seen"}
    return [
        *(saved(picture, name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")),
        saved(picture, "JPEG", progressive=True, **about),
        saved(photo(9, 7, "CMYK"), "JPEG"),
        saved(photo(9, 7, "P"), "PNG", transparency=1),
        saved(photo(9, 7, "L"), "PNG", **about),
        saved(picture, "WEBP", lossless=True, **about),
        *(animation(name, size=8) for name in ("GIF", "PNG", "WEBP")),
    ]


def _cursors() -> list[str]:
    moment = datetime(2026, 11, 22, 12, tzinfo=UTC)
    return [
        f"limit=7&from=3&cursor={image_cursor({'n': 12})}",
        "cursor=" + request_cursor({"created_at": moment, "id": "0" * 32}),
    ]


SEEDS: Final[dict[str, list[bytes]]] = {
    "csv_file": [
        (_CSV + _ROW).encode(),
        _OTHER.encode(),
        codecs.BOM_UTF8 + f"URLs\tSerial No\tProduct Name\nhttp://ü/\t1\tö\n{_ROW}".encode(),
        codecs.BOM_UTF16_LE + (_CSV + _ROW).encode("utf-16-le"),
        codecs.BOM_UTF16_BE + (_CSV + _ROW).encode("utf-16-be"),
        _CSV.encode() + b'1,a"b,"c\xff\0"\r\n2,"d"e,f\r\n1,g,http://h,i\r\n',
    ],
    "url_cell": [", ".join(_URLS).encode(), b"http://a/1,2.jpg,http://b/,, ,c+d://e,"],
    "source_url": [url.encode() for url in _URLS],
    "addresses": [
        *(text.encode() for text in _ADDRESSES),
        *(ip_address(text).packed for text in _ADDRESSES if "%" not in text),
        "\n".join(_ADDRESSES[:3]).encode(),
    ],
    "multipart": [
        _FORM.encode(),
        b"multipart/form-data; boundary=XyZ\n\r\n" + _FORM.encode(),
        b'multipart/form-data; boundary="a b"\n--a b\r\n\r\n',
        b"text/csv; charset=utf-16\n" + _CSV.encode(),
    ],
    "decoder_frame": [pack(_GOOD_REPLY, 3) + b"abc", pack(_BAD_REPLY, 0), pack({"bug": "x"}, 0)],
    "decoder_reply": [
        b'{"format":"png","width":1,"height":1,"quality":"lossless"}\0abc',
        b'{"code":"decode_error","detail":"broken"}',
        b'{"bug":"Traceback"}',
    ],
    "http_connection": [(_GET + _POST + _GET).encode(), *(text.encode() for text in _ODD)],
    "service_connection": [text.encode() for text in _requests()],
    "origin_answer": [
        b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "a"\r\nContent-Type: image/png\r\n\r\nabc',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: //shop.example:80/b?c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 503 -\r\nRetry-After: Wed, 21 Oct 2099 07:28:00 GMT\r\n\r\nlater",
        b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 429 Slow\nRetry-After: 7\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, br\r\nLast-Modified: x\r\n folded\r\n\r\nabc",
        b"HTTP/1.1 301 -\r\nLocation: https://b.example/\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rContent-Type: multipart/x; a*=1\r\nC: d\r\r\n\r\nabc",
    ],
    "image_container": _images(),
    "image_compression": _images(),
    "header_fields": [
        b'Idempotency-Key: "a\\"b"\nRange: bytes=3-20\nIf-Range: "e"',
        b'Idempotency-Key: a-1\nRange: bytes=-5\nIf-None-Match: W/"e", "f"',
        b"Range: bytes=99-\nIf-None-Match: *",
        b'Range: bytes=0-1\nIf-Match: "e", W/"e"',
    ],
    "query_fields": [text.encode() for text in _cursors()],
    "upload_options": [
        b"format=webp&quality=80&effort=best&max_width=100&max_height=1&background=%23aabbcc",
        b"quality=auto&max_bytes=1000&strict=true&dry_run=false&priority=high",
        b"webhook_url=https://shop.example/hook",
    ],
    "output_rows": ['a\x001\x00=1+1\x00-1.5e3\x00@x\x002\x00"é,\r\n\x00\t\x00+'.encode()],
}


def words(seeds: list[bytes]) -> set[bytes]:
    """Return the short words of some seeds, for a fuzzer to put where it likes."""
    return {
        word for seed in seeds for word in re.findall(rb"[\w.-]{2,24}|[^\w\s]{1,24}|\r\n", seed)
    }
