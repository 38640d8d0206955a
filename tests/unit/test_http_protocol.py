"""What a request may look like: bytes of heads against the parser."""

from __future__ import annotations

import pytest

from errors import HttpError
from httpd.http_protocol import RequestHead, parse_request_line

GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
BAD_HOSTS = (b"", b"a/b", b"u@a", b"a b", b"a, b", b"a:b", b"a:", b"\xe9", b"[g]")
CODINGS = (b"", b"identity", b", chunked", b"chunked,", b"xchunked", b"gzip, chunked", b"Chunked")


def parse(request: bytes) -> RequestHead:
    """Take the lines of a head apart."""
    line, *headers = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return RequestHead(parse_request_line(line), headers)


def post(*headers: bytes) -> bytes:
    """Return the head of a POST with further header lines."""
    return b"\r\n".join(
        [b"POST /echo HTTP/1.1", b"Host: a", b"Content-Length: 0", *headers, b"", b""]
    )


def refusal(request: bytes) -> int:
    """Return the status that a head gets."""
    with pytest.raises(HttpError) as caught:
        parse(request)
    return caught.value.status


def test_a_head_is_understood() -> None:
    """So that what is refused below is refused for what is wrong with it."""
    head = parse(GET)
    assert (head.method, head.path, head.keeps_alive, head.length) == ("GET", "/echo", True, None)
    assert parse(post()).length == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /echo HTTP/1.1\rHost: a\r\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\r\n\r\n",
        b"GET\xa0/echo\xa0HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\x0b/echo\x0bHTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\t/echo\tHTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G(T /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\xe9T /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.10\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/01.1\r\nHost: a\r\n\r\n",
        b"GET /echo http/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo#part HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ech\xc3\xb6 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://b/echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://u:p@a/echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///echo HTTP/1.0\r\n\r\n",
        b"GET /echo?a=%ff HTTP/1.1\r\nHost: a\r\n\r\n",
        *(b"GET /echo HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" for host in BAD_HOSTS),
        b"GET /echo HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
        *(
            b"GET /echo HTTP/1.1\r\nHost: a\r\nX: b" + c + b"\r\n\r\n"
            for c in (b"\x07", b"\x0b", b"\x7f")
        ),
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
        post(b"Content-Type: text/csv", b"Content-Type: text/html"),
        post(b"Connection: keep-alive, content-length"),
        *(post(b"Transfer-Encoding: " + coding) for coding in CODINGS),
        b"POST /echo HTTP/1.1\r\nHost: a\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n",
        post(b"Transfer-Encoding: chunked\x0b"),
        post(b"Transfer-Encoding:\r\n chunked"),
        b"GET /echo\r\n\r\n",
        b"POST /echo\r\n\r\n",
        b"GET\r\n\r\n",
        b"  \r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\r\n\r\n",
        b"GET /echo HTTP/1.1 more\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/one\r\nHost: a\r\n\r\n",
        b"GET /echo SMTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX: b\r\n folded\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n folded\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX\xff: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nFrom nobody\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX: b\rContent-Length: 5\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        b"GET /echo?a=1&a=2 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo?" + b"&".join(b"a%d" % n for n in range(51)) + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        post(b"Content-Length: 0"),
        post(b"Transfer-Encoding: chunked"),
        post(b"transfer-encoding: identity"),
    ],
)
def test_malformed_head_is_refused(request_bytes: bytes) -> None:
    """What is not exactly HTTP/1.1, or could be read in two ways."""
    assert refusal(request_bytes) == 400


@pytest.mark.parametrize(
    "length",
    [
        b"+5",
        b"-1",
        b"5, 5",
        b"5 5",
        b"0x5",
        b"1_0",
        b"5.0",
        b"5;a",
        b"5\x0b",
        b"5\xa0",
        b"",
        b"\xb2",
        b"1" * 16,
    ],
)
def test_length_has_only_digits(length: bytes) -> None:
    """A Content-Length that parsers might read differently is refused."""
    start = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: "
    assert refusal(start + length + b"\r\n\r\n") == 400
