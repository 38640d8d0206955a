"""Downloads over real sockets of loopback: limits, odd origins, redirects, TLS, reuse.

Hosts that are not loopback exist only in the tests' resolvers, and what would be connected to
is recorded, not reached.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import BoundedSemaphore, Event, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from urllib3.exceptions import ProtocolError

from address_policy import AddressPolicy
from errors import ImageError
from fetching import image_downloader, source_connection
from fetching.byte_budget import ByteBudget
from fetching.image_downloader import DownloadLimits, ImageDownloader
from fetching.source_answer import MAX_FRAMING_BYTES, MAX_HEADER_BYTES
from fetching.source_connection import MAX_ADDRESSES_TRIED, Attempt, Network
from fetching.source_response import Validators
from fetching.source_session import USER_AGENT
from tests.origin import Origin, RecordedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from address_policy import SourceUrl

    Make = Callable[..., ImageDownloader]

IMAGE = bytes(range(256)) * 40
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS_CHUNK = CHUNKED + b"-1\r\n"
LIMITS = DownloadLimits(max_bytes=1_000_000, connect_seconds=5, total_seconds=10)
HASTY = DownloadLimits(max_bytes=1_000_000, connect_seconds=0.2, total_seconds=0.3)
PATIENCE_SECONDS = 5.0  # what a wait of HASTY may take at the very most on a busy machine


class Map:
    """A network in which hosts have the addresses that the test says, and connects are noted."""

    def __init__(self, addresses: dict[str, list[str]], port: int | None = None) -> None:
        self.addresses = addresses
        self.port = port
        self.looked_up: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def resolve(self, host: str, port: int) -> Sequence[str]:
        """Look a host up; an unknown one fails as the system's resolver does."""
        self.looked_up.append(f"{host}:{port}")
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[host]

    def connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Note the address, and go to the test's own origin if there is one."""
        self.connected.append(address)
        if self.port is None:
            raise ConnectionRefusedError
        sock.connect(("127.0.0.1", self.port))

    @property
    def network(self) -> Network:
        """The hooks to hand in."""
        return Network(resolve=self.resolve, connect=self.connect)


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Give an origin of this test's own."""
    with Origin() as running:
        yield running


@pytest.fixture
def make() -> Iterator[Callable[..., ImageDownloader]]:
    """Make downloaders that are closed after the test."""
    made: list[ImageDownloader] = []

    def make_downloader(
        *sources: str | Origin,
        limits: DownloadLimits = LIMITS,
        budget: ByteBudget | None = None,
        network: Network | None = None,
    ) -> ImageDownloader:
        allowed = [source if isinstance(source, str) else source.authority for source in sources]
        policy = AddressPolicy(allowed_sources=allowed)
        made.append(ImageDownloader(policy, limits, connections=8, budget=budget, network=network))
        return made[-1]

    yield make_downloader
    for downloader in made:
        downloader.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until something has come true."""
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline
        sleep(0.001)


def failure(downloader: ImageDownloader, url: str) -> ImageError:
    """Download what can't be downloaded."""
    with pytest.raises(ImageError) as caught:
        downloader.download(url)
    return caught.value


def test_an_image_comes_with_what_is_known_of_it(origin: Origin, make: Make) -> None:
    """Bytes, validators and final URL arrive; the request says who asks, and nothing more."""
    headers = {"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    url = origin.serve("/a.jpg", IMAGE, headers=headers)
    with make(origin).download(url.replace("//", "//user:secret@") + "#x") as image:
        assert image.data == IMAGE
        assert image.validators == (url, '"1"', headers["Last-Modified"])
        assert image.sha256 == hashlib.sha256(IMAGE).hexdigest()
        assert not image.is_unchanged
    (request,) = origin.requests
    assert request.method == "GET"
    assert request.headers == {
        "host": origin.authority,
        "user-agent": USER_AGENT,
        "accept": "*/*",
        "accept-encoding": "identity",
    }


@pytest.mark.parametrize(
    "path",
    ["/a%7eb%2Fc,d.jpg", "/../a.jpg", "/100%25.jpg?q=%25,%2c&r=a+b", "//a//b.jpg", "/%C3%BC"],
)
def test_the_url_goes_out_as_it_was_judged(origin: Origin, make: Make, path: str) -> None:
    """No library between normalises it once more, but for the case of escapes."""
    sent = path.replace("%7e", "%7E").replace("%2c", "%2C")
    origin.serve(sent, IMAGE)
    assert make(origin).download(origin.url(path)).data == IMAGE
    assert origin.count(sent) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(IMAGE, framing="chunked"),
        Reply(IMAGE, framing="chunked", piece=3),
        Reply(IMAGE, framing="close"),
        Reply(IMAGE, content_type="text/html"),
        Reply(IMAGE, content_type=None),
        Reply(IMAGE, headers={"Content-Encoding": "identity"}),
        Reply(IMAGE, headers={"Content-Length": str(len(IMAGE))}),
        Reply(raw=b"HTTP/1.0 200 OK\r\n\r\n" + IMAGE),
        Reply(raw=CHUNKED + b"%x ; a=b\r\n%b\r\n00\r\nX: y\r\n\r\n" % (len(IMAGE), IMAGE)),
        Reply(
            raw=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
            + IMAGE
        ),
        Reply(IMAGE, piece=2000, pause=0.001),
    ],
)
def test_every_way_to_frame_a_body_is_read(origin: Origin, make: Make, reply: Reply) -> None:
    """However the end is told, the bytes are the same; the content type is not believed."""
    url = origin.serve_in_turn("/a", reply)
    assert make(origin).download(url).data == IMAGE


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(b""), "not_an_image"),
        (Reply(b"", framing="close"), "not_an_image"),
        (Reply(b"", framing="chunked"), "not_an_image"),
        (Reply(IMAGE, declared=len(IMAGE) + 1, cut_after=len(IMAGE)), "truncated"),
        (Reply(IMAGE, cut_after=0), "truncated"),
        (Reply(IMAGE, cut_after=100), "truncated"),
        (Reply(IMAGE, framing="chunked", cut_after=100), "truncated"),
        (Reply(raw=CHUNKED + b"5\r\nabc"), "truncated"),
        (Reply(raw=CHUNKED + b"xyz\r\nabc"), "truncated"),
        (
            Reply(raw=ENDLESS_CHUNK + IMAGE, piece=len(ENDLESS_CHUNK), pause=30),
            "truncated",
        ),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
            "connect_error",
        ),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc"), "connect_error"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc"), "connect_error"),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            "connect_error",
        ),
        (Reply(raw=b""), "connect_error"),
        (Reply(raw=b"\r\n"), "connect_error"),
        (Reply(raw=b"SSH-2.0-OpenSSH_9.6\r\n"), "connect_error"),
        (Reply(raw=b"HTTP/3.0 200 OK\r\n\r\nabc"), "connect_error"),
        (Reply(raw=b"HTTP/1.1 abc OK\r\n\r\nabc"), "connect_error"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"), "connect_error"),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 7000 + b"\r\n") * 10 + b"\r\nabc"),
            "too_large",
        ),
        (Reply(raw=b"HTTP/1.1 200 " + b"y" * MAX_HEADER_BYTES), "too_large"),
        (Reply(raw=b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" * 5000), "too_large"),
        (Reply(raw=CHUNKED + b"1\r\nx\r\n" * 200_000), "too_large"),
        (Reply(raw=CHUNKED + (b"1;" + b"e" * 50_000 + b"\r\nx\r\n") * 20), "too_large"),
        (Reply(raw=CHUNKED + b"3;" + b"e" * MAX_FRAMING_BYTES), "too_large"),
        (Reply(raw=CHUNKED + b"3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 100_000), "too_large"),
        (Reply(raw=CHUNKED + b"3\r\nabc\r\n0\r\nX: " + b"y" * MAX_FRAMING_BYTES), "too_large"),
        (Reply(raw=CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"), "truncated"),
        (Reply(raw=CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"), "truncated"),
        (Reply(raw=CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"), "truncated"),
        (Reply(raw=CHUNKED + b"f" * 16 + b"\r\nabc"), "truncated"),
        (Reply(raw=CHUNKED + b"f" * 15 + b"\r\nabc"), "truncated"),
        (Reply(IMAGE, headers={"Content-Encoding": "gzip"}), "unsupported_format"),
        (Reply(IMAGE, headers={"Content-Encoding": "br"}, framing="chunked"), "unsupported_format"),
        (Reply(b"<html>", status=404), "http_404"),
        (Reply(b"x" * 100_000, status=500), "http_500"),
        (Reply(IMAGE, status=206), "http_206"),
        (Reply(IMAGE, status=203), "http_203"),
        (Reply(status=204, content_type=None), "http_204"),
        (Reply(status=304, content_type=None), "http_304"),
        (Reply(status=302), "http_302"),
        (Reply(status=300, headers={"Location": "/other"}), "http_300"),
        (Reply(status=101), "http_101"),
        (Reply(IMAGE, status=999), "http_999"),
    ],
)
def test_what_is_no_whole_image_fails_with_its_reason(
    origin: Origin, make: Make, reply: Reply, code: str
) -> None:
    """Each odd answer has its code, a sentence, and one request."""
    url = origin.serve_in_turn("/a", reply)
    error = failure(make(origin), url)
    assert error.code == code
    assert error.detail.endswith(".")
    assert origin.count("/a") == 1
    if code.startswith("http_"):
        assert error.http_status == reply.status


def test_a_rate_limit_says_when_to_come_back(origin: Origin, make: Make) -> None:
    """429 has a code of its own, and Retry-After travels with it and with 503."""
    downloader = make(origin)
    busy = origin.serve("/busy", status=429, headers={"Retry-After": "7"})
    error = failure(downloader, busy)
    assert (error.code, error.http_status, error.retry_after) == ("rate_limited", 429, 7.0)
    url = origin.serve_in_turn(
        "/a", Reply(status=503, headers={"Retry-After": "1"}), Reply(status=503), Reply(IMAGE)
    )
    assert failure(downloader, url).retry_after == 1.0
    assert failure(downloader, url).retry_after is None
    assert downloader.download(url).data == IMAGE


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_huge_image_is_read_no_further_than_allowed(
    origin: Origin, make: Make, framing: str
) -> None:
    """A declared size is refused unread, an undeclared one as soon as it is too much."""
    url = origin.serve("/a", b"x" * 65536, repeat=10**9, framing=framing)
    assert failure(make(origin), url).code == "too_large"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_the_cap_itself_is_allowed(origin: Origin, make: Make, framing: str) -> None:
    """Exactly `max_bytes` will do, one byte more won't."""
    limits = DownloadLimits(max_bytes=len(IMAGE), connect_seconds=5, total_seconds=10)
    downloader = make(origin, limits=limits)
    assert downloader.download(origin.serve("/a", IMAGE, framing=framing)).data == IMAGE
    assert (
        failure(downloader, origin.serve("/b", IMAGE + b"x", framing=framing)).code == "too_large"
    )


@pytest.mark.parametrize(
    "reply",
    [
        Reply(silent=True),
        Reply(IMAGE, delay=60),
        Reply(IMAGE, piece=1, pause=0.02),
        Reply(IMAGE, piece=1, pause=0.02, framing="chunked"),
        Reply(IMAGE, piece=1, pause=0.02, framing="close"),
        Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"X" * 10_000, piece=1, pause=0.02),
        Reply(
            raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 999,
            piece=1,
            pause=0.02,
        ),
    ],
)
def test_no_origin_is_waited_for_beyond_the_deadline(
    origin: Origin, make: Make, reply: Reply
) -> None:
    """Silence and trickling end at the same deadline, though no single wait is long."""
    url = origin.serve_in_turn("/a", reply)
    began_at = monotonic()
    assert failure(make(origin, limits=HASTY), url).code == "timeout"
    assert HASTY.total_seconds <= monotonic() - began_at < PATIENCE_SECONDS


def test_redirects_share_one_deadline(origin: Origin, make: Make) -> None:
    """Each hop is quick enough, all together are not."""
    headers = {"Location": "/a"}
    url = origin.serve_in_turn("/a", Reply(status=302, headers=headers, delay=0.2))
    assert failure(make(origin, limits=HASTY), url).code == "timeout"


def test_a_slow_rest_of_an_error_does_not_hide_the_error(origin: Origin, make: Make) -> None:
    """An error's body is not worth waiting for."""
    url = origin.serve("/a", IMAGE, status=404, piece=1, pause=0.02)
    began_at = monotonic()
    assert failure(make(origin), url).code == "http_404"
    assert monotonic() - began_at < PATIENCE_SECONDS


def test_a_slow_resolver_is_left_behind(make: Make) -> None:
    """A look-up that hangs costs the time for connecting and no more."""
    answered = Event()

    def resolve(_host: str, _port: int) -> Sequence[str]:
        answered.wait()
        return ["93.184.216.34"]

    network = Map({})
    downloader = make(limits=HASTY, network=Network(resolve=resolve, connect=network.connect))
    began_at = monotonic()
    error = failure(downloader, "http://shop.example/a")
    answered.set()
    assert error.code == "timeout"
    assert HASTY.connect_seconds <= monotonic() - began_at < PATIENCE_SECONDS
    assert network.connected == []


def test_look_ups_that_hang_don_t_pile_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those left behind are counted: beyond so many the next one waits, and is made later."""
    monkeypatch.setattr(source_connection, "_look_ups", BoundedSemaphore(2))
    answered = Event()
    looked_up: list[str] = []

    def resolve(host: str, _port: int) -> Sequence[str]:
        looked_up.append(host)
        answered.wait()
        return []

    network = Network(resolve=resolve)
    hasty = make(limits=HASTY, network=network)
    for n in range(4):
        assert failure(hasty, f"http://{n}.example/").code == "timeout"
    assert looked_up == ["0.example", "1.example"]
    answered.set()
    patient = make(network=network)
    for n in range(4):
        assert failure(patient, f"http://{n}.example/").code == "dns_error"


def test_a_look_up_that_gets_no_thread_leaves_nothing_behind(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a thread to spare fails the look-up, and later ones are made."""
    monkeypatch.setattr(source_connection, "_look_ups", BoundedSemaphore(1))
    downloader = make(limits=HASTY, network=Map({}).network)
    with monkeypatch.context() as patch:
        patch.setattr(source_connection, "Thread", _NoThread)
        for _ in range(3):
            assert failure(downloader, "http://shop.example/").code == "dns_error"
    assert failure(downloader, "http://shop.example/").code == "dns_error"


class _NoThread(Thread):
    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_a_host_without_address_is_a_dns_error(make: Make) -> None:
    """Unknown hosts, empty answers and names that no resolver takes are one failure."""
    network = Map({"empty.example": []})
    downloader = make(network=network.network)
    for host in ("unknown.example", "empty.example"):
        error = failure(downloader, f"http://{host}/a")
        assert (error.code, error.is_retryable) == ("dns_error", True)


def test_nobody_listening_is_a_connect_error(make: Make) -> None:
    """A refused connection may be better next time."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        authority = f"127.0.0.1:{sock.getsockname()[1]}"
        error = failure(make(authority), f"http://{authority}/a")
    assert (error.code, error.is_retryable) == ("connect_error", True)


def test_addresses_are_tried_in_turn_and_share_the_time(origin: Origin, make: Make) -> None:
    """The second address serves when the first doesn't answer in its part of the time."""
    tried: list[tuple[str, float | None]] = []

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        tried.append((address[0], sock.gettimeout()))
        if len(tried) < 3:
            raise TimeoutError
        sock.connect(("127.0.0.1", origin.port))

    hosts = Map({"shop.example": ["93.184.216.34", "1.1.1.1", "8.8.8.8"]})
    network = Network(resolve=hosts.resolve, connect=connect)
    source = f"shop.example:{origin.port}"
    origin.serve("/a", IMAGE)
    assert make(source, network=network).download(f"http://{source}/a").data == IMAGE
    assert [address for address, _ in tried] == ["93.184.216.34", "1.1.1.1", "8.8.8.8"]
    first, second, third = (timeout or 0 for _, timeout in tried)
    assert first <= LIMITS.connect_seconds / 3
    assert first < second < third <= LIMITS.connect_seconds
    assert origin.requests[0].headers["host"] == source


def test_what_follows_connecting_has_all_the_time_that_is_left(origin: Origin) -> None:
    """An address is tried for a part of it, and its TLS handshake may take the rest."""
    shares: list[float] = []

    def connect(sock: socket.socket, _address: tuple[str, int]) -> None:
        shares.append(sock.gettimeout() or 0)
        sock.connect(("127.0.0.1", origin.port))

    host = f"shop.example:{origin.port}"
    network = Network(resolve=lambda *_: ["127.0.0.1", "127.0.0.2"], connect=connect)
    policy = AddressPolicy(allowed_sources=[host])
    with Attempt(policy, network, connect_seconds=60, total_seconds=60) as attempt:
        attempt.aim(policy.check_url(f"http://{host}/"))
        with attempt.open_socket("shop.example", origin.port) as sock:
            assert shares[0] <= 30 < (sock.gettimeout() or 0) <= 60


def test_sending_ends_with_the_deadline() -> None:
    """Whoever takes no byte of what it is sent is waited for no longer than one that sends none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        policy = AddressPolicy(allowed_sources=[f"{host}:{port}"])
        with Attempt(policy, Network(), connect_seconds=5, total_seconds=0.3) as attempt:
            attempt.aim(policy.check_url(f"http://{host}:{port}/"))
            with attempt.open_socket(host, port) as sock:
                sock.settimeout(None)  # as urllib3 leaves it
                with pytest.raises(TimeoutError):
                    sock.sendall(bytes(50 * 2**20))


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["93.184.216.34", "10.0.0.1"],
        ["10.0.0.1", "93.184.216.34"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::a9fe:a9fe"],
        ["fe80::1%1"],
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_with_a_bad_address_is_not_connected_to(
    make: Make, addresses: list[str], scheme: str
) -> None:
    """One private address among the answers, and not a packet is sent."""
    hosts = Map({"shop.example": addresses})
    error = failure(make(network=hosts.network), f"{scheme}://shop.example/a")
    assert error.code == "blocked_address"
    assert hosts.looked_up == [f"shop.example:{443 if scheme == 'https' else 80}"]
    assert hosts.connected == []


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://shop.example:22/",
        "http://169.254.169.254/latest",
    ],
)
def test_a_bad_literal_is_not_even_looked_up(make: Make, url: str) -> None:
    """What the URL tells already needs no resolver."""
    hosts = Map({"shop.example": ["93.184.216.34"]})
    assert failure(make(network=hosts.network), url).code == "blocked_address"
    assert (hosts.looked_up, hosts.connected) == ([], [])


def test_what_is_approved_is_connected_to_without_another_look_up(make: Make) -> None:
    """A name that changes its answer between check and use gains nothing."""
    answers = iter([["93.184.216.34"], ["10.0.0.1"]])
    hosts = Map({})
    network = Network(resolve=lambda *_: next(answers), connect=hosts.connect)
    assert failure(make(network=network), "http://shop.example/a").code == "connect_error"
    assert hosts.connected == [("93.184.216.34", 80)]
    assert list(answers) == [["10.0.0.1"]]


def test_no_other_host_is_connected_to_than_was_judged() -> None:
    """Should a library read the URL in another way, the connection is not made."""
    hosts = Map({"shop.example": ["93.184.216.34"], "other.example": ["93.184.216.34"]})
    policy = AddressPolicy()
    with Attempt(policy, hosts.network, connect_seconds=1, total_seconds=1) as attempt:
        attempt.aim(policy.check_url("http://shop.example/"))
        for host, port in (("other.example", 80), ("shop.example", 443)):
            with pytest.raises(ImageError) as caught:
                attempt.open_socket(host, port)
            assert caught.value.code == "blocked_address"
    assert (hosts.looked_up, hosts.connected) == ([], [])


def test_a_host_with_very_many_addresses_is_given_up_early(make: Make) -> None:
    """A stranger's DNS doesn't make us knock on as many doors as it likes."""
    hosts = Map({"shop.example": [f"93.184.216.{n}" for n in range(100)]})
    assert failure(make(network=hosts.network), "http://shop.example/").code == "connect_error"
    assert len(hosts.connected) == MAX_ADDRESSES_TRIED


def test_the_peer_is_checked_after_connecting(origin: Origin, make: Make) -> None:
    """Should the connection lead elsewhere than approved, nothing is sent over it."""
    hosts = Map({"shop.example": ["93.184.216.34"]}, port=origin.port)
    error = failure(make(network=hosts.network), "http://shop.example/a")
    assert error.code == "blocked_address"
    assert hosts.connected == [("93.184.216.34", 80)]
    assert origin.requests == []


@pytest.mark.parametrize("content_type", ["text/html", "multipart/x; a*=1; a*4=2", "multipart/x"])
def test_what_an_origin_calls_its_image_means_nothing(
    origin: Origin, make: Make, content_type: str
) -> None:
    """An image is read whatever its Content-Type, were it one that Python itself fails over."""
    url = origin.serve("/a", IMAGE, content_type=content_type)
    with make(origin).download(url) as image:
        assert image.data == IMAGE


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nX: y\r{}\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\r{}\r\n",
        "HTTP/1.1 200 OK\r\nX: y\n\r{}\r\n",
        "HTTP/1.1 200 OK\r\n\r{}\r\n",
        "HTTP/1.1 103 Hints\r\nX: y\r{}\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
)
def test_no_header_hides_behind_a_bare_carriage_return(
    origin: Origin, make: Make, head: str
) -> None:
    """It is a space to us, so it must not end a line for Python."""
    fields = head.format("Content-Type: multipart/x; a*=1; a*4=2")
    fields += f"Content-Length: {len(IMAGE)}\r\n\r\n"
    url = origin.serve("/a", raw=fields.encode() + IMAGE)
    with make(origin).download(url) as image:
        assert image.data == IMAGE


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(origin: Origin, make: Make, status: int) -> None:
    """Relative places too; the final URL is told, and no cookie is carried on."""
    origin.serve("/b c.jpg".replace(" ", "%20"), IMAGE)
    headers = {"Location": "b c.jpg#top", "Set-Cookie": "a=b; Path=/"}
    url = origin.serve("/a", status=status, headers=headers)
    downloader = make(origin)
    assert downloader.download(url).validators.url == origin.url("/b%20c.jpg")
    assert downloader.download(url).data == IMAGE
    assert not any("cookie" in request.headers for request in origin.requests)


def test_five_redirects_are_followed_and_no_more(origin: Origin, make: Make) -> None:
    """The sixth is one too many."""
    for hop in range(6):
        origin.redirect(f"/{hop}", f"/{hop + 1}")
    origin.serve("/6", IMAGE)
    downloader = make(origin)
    assert downloader.download(origin.url("/1")).data == IMAGE
    assert failure(downloader, origin.url("/0")).code == "too_many_redirects"
    assert origin.count("/6") == 1


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://10.0.0.1/", "blocked_address"),
        ("http://169.254.169.254/latest/meta-data/", "blocked_address"),
        ("http://[::ffff:7f00:1]/", "blocked_address"),
        ("http://internal.example/", "blocked_address"),
        ("//internal.example/", "blocked_address"),
        ("http://shop.example:22/", "blocked_address"),
        ("http://127.0.0.1:1/", "blocked_address"),
        ("ftp://shop.example/", "invalid_url"),
        ("file:///etc/passwd", "invalid_url"),
        ("https:shop.example", "invalid_url"),
        ("http://[::1/", "invalid_url"),
        ("http://shop.example\\@internal.example/", "invalid_url"),
        ("http://unknown.example/", "dns_error"),
    ],
)
def test_every_hop_is_judged(origin: Origin, make: Make, target: str, code: str) -> None:
    """A redirect opens nothing that the URL itself could not."""
    network = Map(
        {"internal.example": ["10.0.0.1"], "shop.example": ["93.184.216.34"]}, port=origin.port
    )
    url = origin.redirect("/a", target)
    error = failure(make(origin, network=network.network), url)
    assert error.code == code
    assert network.connected == [("127.0.0.1", origin.port)]
    assert len(origin.requests) == 1


def test_a_redirect_with_a_huge_body_is_not_read(origin: Origin, make: Make) -> None:
    """The body of a redirect is nobody's business, and its connection is not kept."""
    origin.serve("/b", IMAGE)
    url = origin.serve("/a", b"x" * 65536, repeat=10**9, status=302, headers={"Location": "/b"})
    assert make(origin).download(url).data == IMAGE
    assert origin.connections == 2


def test_connections_are_kept_and_shared(origin: Origin, make: Make) -> None:
    """Images, redirects and small errors leave the connection for the next."""
    url = origin.serve("/a", IMAGE)
    origin.serve("/chunked", IMAGE, framing="chunked")
    origin.redirect("/r", "/a")
    downloader = make(origin)
    for _ in range(3):
        downloader.download(url)
        downloader.download(origin.url("/chunked"))
        downloader.download(origin.url("/r"))
        failure(downloader, origin.url("/nothing"))
    assert len(origin.requests) == 15
    assert origin.connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(IMAGE, cut_after=100),
        Reply(IMAGE, framing="close"),
        Reply(b"x" * 2_000_000),
        Reply(b"x" * 2_000_000, framing="chunked"),
        Reply(b"x" * 200_000, status=404),
        Reply(IMAGE, headers={"Content-Encoding": "gzip"}),
        Reply(IMAGE, headers={"Connection": "close"}),
    ],
)
def test_a_connection_that_was_not_read_to_its_end_is_not_reused(
    origin: Origin, make: Make, reply: Reply
) -> None:
    """What is left over in one can't become the next image."""
    odd, plain = origin.serve_in_turn("/odd", reply), origin.serve("/a", IMAGE)
    downloader = make(origin)
    downloader.download(plain)
    try:
        downloader.download(odd)
    except ImageError as error:
        assert error.code in {"truncated", "too_large", "http_404", "unsupported_format"}  # noqa: PT017  # some succeed
    assert downloader.download(plain).data == IMAGE
    assert origin.connections == 2


def test_connections_that_the_origin_dropped_are_replaced(origin: Origin, make: Make) -> None:
    """An origin may close what is idle, and no image suffers."""
    url = origin.serve("/a", IMAGE)
    downloader = make(origin)
    for _ in range(3):
        assert downloader.download(url).data == IMAGE
        origin.drop_connections()
    assert origin.connections == 3


def test_a_connection_dropped_at_the_moment_of_reuse_is_replaced(
    origin: Origin, make: Make
) -> None:
    """A request that a kept connection swallowed is sent once more, over a fresh one."""
    plain = origin.serve("/a", IMAGE)
    url = origin.serve_in_turn("/b", Reply(raw=b""), Reply(IMAGE))
    downloader = make(origin)
    downloader.download(plain)
    assert downloader.download(url).data == IMAGE
    assert [request.connection for request in origin.requests] == [1, 1, 2]


def test_an_exchange_can_pass_over_the_kept_connections(origin: Origin) -> None:
    """The origin may have dropped them all, so a second try opens its own."""
    policy = AddressPolicy(allowed_sources=[origin.authority])
    downloader = ImageDownloader(policy, LIMITS, connections=1)
    source = policy.check_url(origin.serve("/a", IMAGE))
    with Attempt(policy, Network(), connect_seconds=5, total_seconds=5) as attempt:
        for afresh in (False, False, True):
            attempt.aim(source, afresh=afresh)
            assert downloader._session.fetch(source, {}).data == IMAGE
    downloader.close()
    assert [request.connection for request in origin.requests] == [1, 1, 2]


def test_a_failure_before_any_connection_is_not_repeated_for_ever(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks like a dropped connection twice running is none."""
    downloader = make("127.0.0.1:1")
    calls: list[object] = []

    def fetch(source: object, _conditions: object) -> None:
        calls.append(source)
        raise ProtocolError

    monkeypatch.setattr(downloader._session, "fetch", fetch)
    assert failure(downloader, "http://127.0.0.1:1/").code == "connect_error"
    assert len(calls) == 2


def test_only_silence_on_a_kept_connection_is_repeated(origin: Origin, make: Make) -> None:
    """Not twice, not on a fresh connection, and not once a byte has come."""
    plain = origin.serve("/a", IMAGE)
    downloader = make(origin)
    downloader.download(plain)
    assert failure(downloader, origin.serve("/mute", raw=b"")).code == "connect_error"
    assert origin.count("/mute") == 2
    assert failure(downloader, origin.url("/mute")).code == "connect_error"
    assert origin.count("/mute") == 3
    downloader.download(plain)
    assert failure(downloader, origin.serve("/half", raw=b"HTT")).code == "connect_error"
    assert origin.count("/half") == 1


def test_many_threads_download_at_once(origin: Origin, make: Make) -> None:
    """Each gets its own image and its own deadline."""
    bodies = {origin.serve(f"/{n}", IMAGE + bytes([n]), delay=0.01): bytes([n]) for n in range(40)}
    slow = origin.serve("/slow", silent=True)
    downloader = make(origin, limits=DownloadLimits(10**6, 5, 0.8))
    with ThreadPoolExecutor(8) as threads:
        stuck = threads.submit(failure, downloader, slow)
        images = list(threads.map(downloader.download, bodies))
    assert [image.data[-1:] for image in images] == list(bodies.values())
    assert stuck.result().code == "timeout"
    assert origin.connections <= 8


def test_bytes_are_reserved_as_declared_until_the_image_is_closed(
    origin: Origin, make: Make
) -> None:
    """The budget is charged with the image's size, and gets it back once."""
    budget = ByteBudget(2 * LIMITS.max_bytes, 0)
    downloader = make(origin, budget=budget)
    for framing in ("length", "chunked", "close"):
        image = downloader.download(origin.serve("/a", IMAGE, framing=framing))
        assert budget.free == (2 * LIMITS.max_bytes - len(IMAGE), 0)
        image.close()
        image.close()
        assert budget.free == (2 * LIMITS.max_bytes, 0)


@pytest.mark.parametrize(
    ("framing", "reserved"), [("length", len(IMAGE)), ("chunked", LIMITS.max_bytes + 1)]
)
def test_bytes_are_reserved_before_they_are_read(
    origin: Origin, make: Make, framing: str, reserved: int
) -> None:
    """The declared length, or as far as it is unknown, is taken while the body comes."""
    budget = ByteBudget(2 * LIMITS.max_bytes, 0)
    url = origin.serve("/a", IMAGE, framing=framing, piece=len(IMAGE) // 2, pause=30)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(failure, make(origin, budget=budget), url)
        wait_until(lambda: budget.free == (2 * LIMITS.max_bytes - reserved, 0))
        origin.drop_connections()
        assert future.result().code == "truncated"
    assert budget.free == (2 * LIMITS.max_bytes, 0)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("growth", [0, 4 * 2**20])
def test_large_images_share_what_is_too_little_for_all(
    origin: Origin, make: Make, framing: str, growth: int
) -> None:
    """More is reserved as more comes; with less than one image's bytes all come through."""
    url = origin.serve("/a", IMAGE * 500, framing=framing)
    limits = DownloadLimits(max_bytes=len(IMAGE) * 500, connect_seconds=5, total_seconds=30)
    budget = ByteBudget(3 * 2**20, growth)
    downloader = make(origin, budget=budget, limits=limits)

    def download(_: int) -> int:
        with downloader.download(url) as image:
            return len(image.data)

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(download, range(12))) == [len(IMAGE) * 500] * 12
    assert budget.free == (3 * 2**20, growth)


LARGE = DownloadLimits(max_bytes=50 * 2**20, connect_seconds=5, total_seconds=60)
HEADS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE.max_bytes,
    "chunked": CHUNKED + b"%x\r\n" % LARGE.max_bytes,
    "close": b"HTTP/1.1 200 OK\r\n\r\n",
}


def fallen_silent(origin: Origin, path: str, sent: int, framing: str = "length") -> str:
    """Serve so many bytes of 50 MiB, and no more."""
    raw = HEADS[framing] + bytes(sent)
    return origin.serve(path, raw=raw, piece=len(raw), pause=60)


@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize("sent", [1, 1_500_000, 3_500_000])
def test_who_sends_little_holds_little(origin: Origin, make: Make, framing: str, sent: int) -> None:
    """Origins that announce much, or nothing, and then fall silent hold what they have sent."""
    budget = ByteBudget(2**20, LARGE.max_bytes)
    url = fallen_silent(origin, "/a", sent, framing)
    grown = sent // 2**20 * 2**20
    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(make(origin, budget=budget, limits=LARGE).download, url)
        try:
            wait_until(lambda: budget.free == (0, LARGE.max_bytes - grown))
            assert not stuck.done()
        finally:
            origin.drop_connections()


@contextmanager
def silent_downloads(origin: Origin, downloader: ImageDownloader) -> Iterator[list[Future[Any]]]:
    """Have eight downloads of an origin under way that has sent 2.5 of 50 MiB each, and no more."""
    urls = [fallen_silent(origin, f"/{n}", 5 * 2**19) for n in range(8)]
    with ThreadPoolExecutor(len(urls)) as threads:
        try:
            yield [threads.submit(downloader.download, url) for url in urls]
        finally:
            origin.drop_connections()


def test_one_origin_keeps_nobody_from_beginning(origin: Origin, make: Make) -> None:
    """All that large images may have is held by an origin that says no more; others go on."""
    budget = ByteBudget(9 * 2**20, 12 * 2**20)
    downloader = make(origin, budget=budget, limits=LARGE)
    with silent_downloads(origin, downloader) as stuck:
        wait_until(lambda: budget.is_short() and budget.free[1] < 0)
        for n in range(10):
            with downloader.download(origin.serve(f"/small/{n}", IMAGE)) as image:
                assert image.data == IMAGE
        assert not any(future.done() for future in stuck)


def test_whoever_holds_much_has_to_send_while_others_wait(
    origin: Origin, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The silent ones are given up one after the other, long before their time is over."""
    monkeypatch.setattr(image_downloader, "_STEP_SECONDS", 0.1)
    monkeypatch.setattr(source_connection, "_GLANCE_SECONDS", 0.01)
    budget = ByteBudget(9 * 2**20, 2**20)
    downloader = make(origin, budget=budget, limits=LARGE)
    with silent_downloads(origin, downloader) as stuck:
        wait_until(budget.is_short)
        with downloader.download(origin.serve("/large", bytes(10 * 2**20))) as image:
            assert len(image.data) == 10 * 2**20
        errors = [future.exception() for future in stuck if future.done()]
    assert errors
    for error in errors:
        assert isinstance(error, ImageError)
        assert error.code == "timeout"
        assert "while other images waited" in error.detail


def test_whoever_holds_much_may_take_its_time_while_nobody_waits(
    origin: Origin, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow origin is no hostile one."""
    monkeypatch.setattr(image_downloader, "_STEP_SECONDS", 0.0)
    monkeypatch.setattr(source_connection, "_GLANCE_SECONDS", 0.01)
    downloader = make(origin, limits=LARGE)
    url = origin.serve("/a", bytes(3 * 2**20), piece=2**20, pause=0.1)
    with downloader.download(url) as image:
        assert len(image.data) == 3 * 2**20


@pytest.mark.parametrize(
    "reply",
    [
        Reply(IMAGE, cut_after=1),
        Reply(IMAGE, piece=1, pause=0.05),
        Reply(b"", status=404),
        Reply(b""),
        Reply(b"x" * 2_000_000, framing="chunked"),
        Reply(b"x" * 2_000_000),
    ],
)
def test_a_failure_keeps_nothing_of_the_budget(origin: Origin, make: Make, reply: Reply) -> None:
    """Whatever goes wrong, the bytes go back."""
    budget = ByteBudget(LIMITS.max_bytes, 0)
    failure(make(origin, budget=budget, limits=HASTY), origin.serve_in_turn("/a", reply))
    assert budget.free == (LIMITS.max_bytes, 0)


def test_waiting_for_the_budget_is_not_the_origins_fault(origin: Origin, make: Make) -> None:
    """A download that waits for memory longer than its deadline still succeeds."""
    budget = ByteBudget(len(IMAGE), 0)
    held = budget.reserve(len(IMAGE))
    url = origin.serve("/a", IMAGE)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(make(origin, budget=budget, limits=HASTY).download, url)
        with pytest.raises(TimeoutError):
            future.result(HASTY.total_seconds * 1.5)
        held.release()
        assert future.result(PATIENCE_SECONDS).data == IMAGE


def test_ipv6_is_spoken(make: Make) -> None:
    """An address in brackets is connected to and named in Host as it stands."""
    try:
        server = Origin(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server:
        assert make(server).download(server.serve("/a", IMAGE)).data == IMAGE
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


class Authority:
    """A certificate authority of the tests' own, with its certificate in a file."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.bundle = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.bundle)

    def origin(self, *names: str, **options: Any) -> Origin:
        """Start an origin with a certificate of these names; options are trustme's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names, **options).configure_cert(context)
        return Origin(tls=context)

    def network(self) -> Network:
        """Trust this authority; every host is on loopback."""
        return Network(resolve=lambda *_: ["127.0.0.1"], ca_bundle=self.bundle)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make one authority for all tests: keys take time."""
    return Authority(tmp_path_factory.mktemp("authority"))


def test_https_is_verified_spoken_and_kept(authority: Authority, make: Make) -> None:
    """Every framing works over TLS, on one connection, held to the URL's host."""
    with authority.origin("localhost") as origin:
        downloader = make(origin, network=authority.network())
        for framing in ("length", "chunked"):
            url = origin.serve(f"/{framing}", IMAGE * 50, framing=framing)
            assert downloader.download(url).data == IMAGE * 50
        origin.redirect("/r", "/length")
        assert downloader.download(origin.url("/r")).validators.url == origin.url("/length")
        assert origin.connections == 1
        assert origin.requests[0].headers["host"] == origin.authority
        origin.drop_connections()
        assert downloader.download(url).data == IMAGE * 50


def test_a_certificate_of_another_host_is_refused(authority: Authority, make: Make) -> None:
    """The name in the URL counts, not the address; nothing is asked of an impostor."""
    with authority.origin("other.example", "127.0.0.1") as origin:
        error = failure(make(origin, network=authority.network()), origin.serve("/a", IMAGE))
        assert (error.code, error.is_retryable) == ("tls_error", False)
        assert origin.requests == []


def test_a_certificate_that_ran_out_is_refused(authority: Authority, make: Make) -> None:
    """Yesterday's is as bad as none."""
    ended = datetime.now(UTC) - timedelta(days=1)
    with authority.origin("localhost", not_after=ended) as origin:
        error = failure(make(origin, network=authority.network()), origin.serve("/a", IMAGE))
        assert error.code == "tls_error"
        assert "expired" in error.detail
        assert origin.requests == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_an_old_protocol_is_refused(authority: Authority, make: Make) -> None:
    """TLS 1.2 is the least, and a connection's keys are negotiated once."""
    with authority.origin("localhost") as origin:
        assert origin.tls
        origin.tls.set_ciphers("ALL:@SECLEVEL=0")
        origin.tls.minimum_version = ssl.TLSVersion.TLSv1
        origin.tls.maximum_version = ssl.TLSVersion.TLSv1_1
        error = failure(make(origin, network=authority.network()), origin.serve("/a", IMAGE))
        assert (error.code, origin.requests) == ("tls_error", [])
    assert Network().tls_context().options & ssl.OP_NO_RENEGOTIATION


def test_an_unknown_authority_is_refused(authority: Authority, make: Make) -> None:
    """Without hooks the public authorities are the ones that count."""
    network = Network(resolve=lambda *_: ["127.0.0.1"])
    with authority.origin("localhost") as origin:
        assert failure(make(origin, network=network), origin.url("/a")).code == "tls_error"


def test_https_to_a_plain_origin_is_a_tls_error(
    origin: Origin, authority: Authority, make: Make
) -> None:
    """An origin that speaks HTTP where TLS was asked for can't be talked to."""
    origin.serve("/a", IMAGE)
    url = origin.url("/a").replace("http:", "https:")
    hello = failure(make(origin, network=authority.network(), limits=HASTY), url)
    assert hello.code in {"tls_error", "timeout"}  # it may wait for the end of the line


@pytest.mark.parametrize("record", [b"", b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" * 999])
def test_a_slow_handshake_ends_with_the_time_for_connecting(make: Make, record: bytes) -> None:
    """TLS counts as connecting, be the other end mute or trickling."""
    is_over = Event()

    def trickle() -> None:
        with suppress(OSError), server.accept()[0] as peer:
            for octet in record:
                peer.sendall(bytes([octet]))
                if is_over.wait(0.01):
                    break
            is_over.wait()

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=trickle, daemon=True).start()
        authority = f"127.0.0.1:{server.getsockname()[1]}"
        limits = DownloadLimits(max_bytes=1, connect_seconds=0.2, total_seconds=60)
        began_at = monotonic()
        assert failure(make(authority, limits=limits), f"https://{authority}/").code == "timeout"
        assert monotonic() - began_at < PATIENCE_SECONDS
        is_over.set()


def test_looking_up_while_an_origin_is_silent_loses_nothing(
    authority: Authority, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read over TLS that was broken off goes on where it was, within a record too."""
    monkeypatch.setattr(source_connection, "_GLANCE_SECONDS", 0.01)
    with authority.origin("localhost") as origin:
        url = origin.serve("/a", IMAGE, delay=0.1, piece=3000, pause=0.03)
        assert make(origin, network=authority.network()).download(url).data == IMAGE


@pytest.mark.parametrize("reply", [Reply(silent=True), Reply(IMAGE, piece=1, pause=0.02)])
def test_the_deadline_holds_over_tls(authority: Authority, make: Make, reply: Reply) -> None:
    """A trickle of records is timed as a trickle of bytes is."""
    with authority.origin("localhost") as origin:
        url = origin.serve_in_turn("/a", reply)
        limits = DownloadLimits(max_bytes=10**6, connect_seconds=5, total_seconds=0.5)
        began_at = monotonic()
        error = failure(make(origin, network=authority.network(), limits=limits), url)
        assert error.code == "timeout"
        assert origin.count("/a") == 1
        assert 0.5 <= monotonic() - began_at < PATIENCE_SECONDS


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("known", "conditions"),
    [
        (('"1"', None), {"if-none-match": '"1"'}),
        (('W/"1"', None), {"if-none-match": 'W/"1"'}),
        ((None, DATE), {"if-modified-since": DATE}),
        (('W/"1"', DATE), {"if-none-match": 'W/"1"', "if-modified-since": DATE}),
    ],
)
def test_an_unchanged_image_is_not_sent(
    origin: Origin,
    make: Make,
    known: tuple[str | None, str | None],
    conditions: dict[str, str],
) -> None:
    """Nothing is reserved for it, its connection is kept, and a changed one comes as ever."""
    headers = {"ETag": known[0] or '"0"', "Last-Modified": DATE}
    url = origin.serve("/a.jpg", IMAGE, headers=headers)
    validators = Validators(url, *known)
    budget = ByteBudget(2**20, 0)
    downloader = make(origin, budget=budget)
    with downloader.download(url, known=validators) as image:
        assert (image.data, image.is_unchanged) == (b"", True)
        assert image.validators == validators
        assert budget.free == (2**20, 0)
    origin.serve("/a.jpg", IMAGE, headers={"ETag": '"2"'})
    with downloader.download(url, known=validators) as image:
        assert (image.data, image.is_unchanged) == (IMAGE, False)
        assert image.validators == (url, '"2"', None)
    for request in origin.requests:
        assert {k: v for k, v in request.headers.items() if k.startswith("if-")} == conditions
    assert [request.connection for request in origin.requests] == [1, 1]


@pytest.mark.parametrize("known", [None, Validators("http://a/", '"1"', DATE)])
def test_a_304_to_a_request_without_a_condition_is_a_refusal(
    origin: Origin, make: Make, known: Validators | None
) -> None:
    """No image comes of it, whatever is known of another URL."""
    url = origin.serve("/a.jpg", status=304)
    with pytest.raises(ImageError) as caught:
        make(origin).download(url, known=known)
    assert (caught.value.code, caught.value.http_status) == ("http_304", 304)
    assert not [name for name in origin.requests[0].headers if name.startswith("if-")]


def test_a_304_counts_as_an_answer(origin: Origin, make: Make) -> None:
    """Whoever has to know whom a download asks hears of it as of any other."""
    heard: list[str] = []

    class Listener:
        def asks(self, source: SourceUrl) -> None:
            heard.append(source.url)

        def answers(self) -> None:
            heard.append("answer")

    url = origin.serve("/a.jpg", IMAGE, headers={"ETag": '"1"'})
    assert make(origin).download(url, Listener(), Validators(url, '"1"', None)).is_unchanged
    assert heard == [url, "answer"]


class _Picky(Origin):
    """An origin that gives an image only to who asks without conditions."""

    refusal = Reply()

    def reply_to(self, request: RecordedRequest) -> Reply:
        """Refuse conditions."""
        reply = super().reply_to(request)
        return self.refusal if "if-none-match" in request.headers else reply


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(status=304, headers={"ETag": '"2"'}),
        Reply(status=304, headers={"ETag": 'W/"2"'}),
        Reply(b"what?", status=400),
        Reply(status=412),
    ],
)
def test_who_can_not_cope_with_conditions_is_asked_without(make: Make, refusal: Reply) -> None:
    """Nor is a 304 believed that is about another state. On the same connection, and once more."""
    with _Picky() as origin:
        origin.refusal = refusal
        url = origin.serve("/a.jpg", IMAGE, headers={"ETag": '"3"'})
        downloader, known = make(origin), Validators(url, '"1"', DATE)
        with downloader.download(url, known=known) as image:
            assert (image.data, image.is_unchanged) == (IMAGE, False)
            assert image.validators == (url, '"3"', None)
        asked = [request.headers.get("if-none-match") for request in origin.requests]
        assert asked == ['"1"', None]
        assert not any("if-modified-since" in request.headers for request in origin.requests[1:])
        assert origin.connections == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
def test_other_refusals_are_not_asked_again(make: Make, status: int) -> None:
    """They are no answer to the conditions."""
    with _Picky() as origin:
        origin.refusal = Reply(status=status)
        url = origin.serve("/a.jpg", IMAGE)
        with pytest.raises(ImageError) as caught:
            make(origin).download(url, known=Validators(url, '"1"', None))
        assert caught.value.http_status == status
        assert origin.count("/a.jpg") == 1


@pytest.mark.parametrize(
    "odd",
    [
        Reply(headers={"Content-Length": "5000"}, framing="none"),
        Reply(headers={"Transfer-Encoding": "chunked"}, framing="none"),
        Reply(framing="chunked"),
    ],
)
@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("is_asked", [False, True])
def test_no_connection_is_kept_after_a_body_that_must_not_be(
    origin: Origin, make: Make, odd: Reply, status: int, *, is_asked: bool
) -> None:
    """Should it come late, it would be the answer to the next request; nor is it waited for."""
    url = origin.serve_in_turn("/odd", replace(odd, status=status))
    plain = origin.serve("/a", IMAGE)
    known = Validators(url, '"1"', None) if is_asked else None
    downloader = make(origin)
    downloader.download(plain)
    with suppress(ImageError):
        assert downloader.download(url, known=known).is_unchanged
    assert downloader.download(plain).data == IMAGE
    assert [request.connection for request in origin.requests] == [1, 1, 2]


@pytest.mark.parametrize("status", [204, 304])
def test_a_connection_is_kept_after_an_answer_without_a_body(
    origin: Origin, make: Make, status: int
) -> None:
    """As most have it: without a length, or with one of nothing."""
    downloader = make(origin)
    for headers in ({}, {"Content-Length": "0"}):
        url = origin.serve("/odd", status=status, headers=headers, framing="none")
        with suppress(ImageError):
            downloader.download(url, known=Validators(url, '"1"', None))
    assert origin.connections == 1


@pytest.mark.parametrize("body", [IMAGE, b"x" * 100_000])
def test_a_304_with_a_body_is_not_read(origin: Origin, make: Make, body: bytes) -> None:
    """It has none by definition: whatever follows is taken for no answer's beginning."""
    raw = b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    url = origin.serve("/a.jpg", raw=raw)
    downloader, known = make(origin), Validators(url, '"1"', None)
    for _ in range(2):
        image = downloader.download(url, known=known)
        assert (image.data, image.is_unchanged, image.validators) == (b"", True, known)
