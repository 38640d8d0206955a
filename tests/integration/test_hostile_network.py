"""What strangers' names and redirects lead to: nothing that was not approved is connected to.

Through the downloader, the webhook sender and a whole worker. Hosts exist only in a table here;
every connection is recorded, and only loopback is ever reached.
"""

from __future__ import annotations

import json
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

import attempt_outcome
import webhook_sender
import worker_upkeep
from address_policy import AddressPolicy
from errors import ImageError
from fetching import image_downloader
from fetching.image_downloader import DownloadLimits, ImageDownloader
from fetching.source_connection import Network
from fetching.source_session import HOSTS_KEPT
from image_processor import background_worker
from request_options import parse_options
from settings import Settings
from storage.folder_store import FolderStore
from tests.address_forms import ADDRESSES, BLOCKED_HOSTS, BLOCKED_URLS
from tests.images import photo, saved
from tests.origin import Origin
from tests.queued import Queue
from tests.waiting import wait_until
from webhook import ClaimedWebhook
from webhook_sender import WebhookSender

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from database_helper import Database

JPEG = saved(photo(64, 48), "JPEG", quality=95)
COLUMNS = ["Serial Number", "Product Name", "Input Image Urls"]
KEY = bytes(range(24))
LIMITS = DownloadLimits(max_bytes=10**6, connect_seconds=5, total_seconds=10)
BLOCKED = [*(f"http://{host}/a.jpg" for host in BLOCKED_HOSTS), *BLOCKED_URLS]
PUBLIC = "93.184.216.34"
PRIVATE = "10.0.0.1"


class Net:
    """A net of names that are in a table, or change their address at each look-up.

    Connections are recorded. Those to loopback are made, all others refused.
    """

    def __init__(self) -> None:
        self.connected: list[tuple[str, int]] = []
        self.look_ups: list[str] = []
        self.rebinding = {"rebound.example": [[PUBLIC], [PRIVATE]] * 100}

    def resolve(self, host: str, _port: int) -> list[str]:
        """Give the addresses that a stranger's name server would give."""
        self.look_ups.append(host)
        if host in self.rebinding:
            return self.rebinding[host].pop(0)
        return ADDRESSES.get(host, [PUBLIC])

    def connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Record the address, and connect if it is on this machine."""
        self.connected.append(address)
        if address[0] not in {"127.0.0.1", "::1"}:
            raise ConnectionRefusedError
        sock.connect(address)

    @property
    def network(self) -> Network:
        """The hooks to hand in."""
        return Network(resolve=self.resolve, connect=self.connect)


@pytest.fixture
def net() -> Net:
    """Give a net of this test's own."""
    return Net()


@pytest.fixture
def _in_worker(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever a worker fetches and sends go through the net."""
    for module in (image_downloader, webhook_sender):
        monkeypatch.setattr(module, "Network", lambda: net.network)
    monkeypatch.setattr(worker_upkeep, "LONGEST_SWEEP_SECONDS", 0.2)
    monkeypatch.setattr(attempt_outcome, "FIRST_RETRY_SECONDS", 0.05)


@contextmanager
def _downloader(net: Net, *origins: Origin) -> Iterator[Callable[[str], str]]:
    """Give a function that downloads, and returns how that ended."""
    policy = AddressPolicy(allowed_sources=[origin.authority for origin in origins])
    downloader = ImageDownloader(policy, LIMITS, connections=8, network=net.network)

    def download(url: str) -> str:
        try:
            return downloader.download(url).validators.url
        except ImageError as error:
            return error.code

    yield download
    downloader.close()


def _at(origin: Origin) -> tuple[str, int]:
    return ("127.0.0.1", origin.port)


def test_no_form_of_an_address_is_downloaded_from(net: Net) -> None:
    """As the URL of an image each of them fails, without a connection."""
    with _downloader(net) as download:
        assert {download(url) for url in BLOCKED} == {"blocked_address"}
    assert net.connected == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_to_any_form_of_an_address(net: Net, origin: Origin, status: int) -> None:
    """As the place of a redirect each of them fails; only the origin itself was connected to."""
    with _downloader(net, origin) as download:
        for number, target in enumerate(url.strip(" ") for url in BLOCKED):
            place = target.encode().decode("latin-1")  # as it stands in a header
            url = origin.redirect(f"/{number}", place, status)
            assert download(url) in {"blocked_address", "invalid_url"}
    assert set(net.connected) == {_at(origin)}
    assert len(origin.requests) == len(BLOCKED)


def test_no_event_is_sent_to_any_form_of_an_address(net: Net) -> None:
    """Webhooks are held to the very same rules."""
    sender = WebhookSender([KEY], AddressPolicy(), network=net.network)
    for url in BLOCKED:
        answer = sender.send(ClaimedWebhook("msg_1", "a", 1, 0, url, "{}"))
        assert answer.status is None
        assert answer.error
        assert "not a public one" in answer.error or "port" in answer.error
    assert net.connected == []


def test_a_name_that_changes_its_address_gains_nothing(net: Net, origin: Origin) -> None:
    """Each exchange judges anew what it connects to, redirects and kept connections or not."""
    url = origin.redirect("/a", "http://rebound.example/")
    sender = WebhookSender([KEY], AddressPolicy(), network=net.network)
    hook = ClaimedWebhook("msg_1", "a", 1, 0, "http://rebound.example/", "{}")
    with _downloader(net, origin) as download:
        assert [download(url) for _ in range(4)] == ["connect_error", "blocked_address"] * 2
    errors = [sender.send(hook).error for _ in range(2)]
    assert errors[0] == "rebound.example refused the connection."
    assert errors[1] == "rebound.example has an address that is not a public one."
    assert set(net.connected) == {_at(origin), (PUBLIC, 80)}
    assert net.look_ups == ["rebound.example"] * 6


def test_a_kept_connection_is_of_one_host_alone(net: Net, origin: Origin) -> None:
    """Another name with the same address, or another scheme, gets a connection of its own."""
    origin.serve("/a", JPEG)
    hosts = ["a.example", "b.example", "a.example", "127.0.0.1", "b.example"]
    authorities = [f"{host}:{origin.port}" for host in hosts]
    policy = AddressPolicy(allowed_sources=authorities)
    network = Network(resolve=lambda *_: ["127.0.0.1"], connect=net.connect)
    downloader = ImageDownloader(policy, LIMITS, connections=8, network=network)
    for authority in authorities:
        assert downloader.download(f"http://{authority}/a").data == JPEG
    assert [request.headers["host"] for request in origin.requests] == authorities
    assert [request.connection for request in origin.requests] == [1, 2, 1, 3, 2]
    with pytest.raises(ImageError) as caught:
        downloader.download(f"https://{authorities[0]}/a")
    assert caught.value.code == "tls_error"
    assert len(origin.requests) == len(authorities)
    downloader.close()


def test_connections_are_kept_to_a_few_hosts_alone(net: Net, origin: Origin) -> None:
    """However many names strangers have, those that were not asked lately are closed."""
    origin.serve("/a", JPEG)
    authorities = [f"h{number}.example:{origin.port}" for number in range(3 * HOSTS_KEPT)]
    network = Network(resolve=lambda *_: ["127.0.0.1"], connect=net.connect)
    policy = AddressPolicy(allowed_sources=authorities)
    downloader = ImageDownloader(policy, LIMITS, connections=8, network=network)
    for authority in authorities:
        assert downloader.download(f"http://{authority}/a").data == JPEG
    wait_until(lambda: len(origin.open_sockets) <= HOSTS_KEPT)
    assert origin.connections == len(authorities)
    downloader.close()
    wait_until(lambda: not origin.open_sockets)


@pytest.mark.parametrize(
    "headers",
    [
        {"Refresh": "0; url=http://10.0.0.1/"},
        {"Location": "http://10.0.0.1/"},
        {"Content-Location": "http://10.0.0.1/"},
        {"Link": '<http://10.0.0.1/>; rel="canonical"'},
        {"Alt-Svc": 'h2="10.0.0.1:443"', "Content-Type": "text/html"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_nothing_but_a_redirect_leads_elsewhere(
    net: Net, origin: Origin, headers: dict[str, str]
) -> None:
    """A page may say what it likes, in its headers or in itself."""
    page = b'<meta http-equiv="refresh" content="0; url=http://10.0.0.1/">'
    url = origin.serve("/a", page, headers=headers, content_type=None)
    with _downloader(net, origin) as download:
        assert [download(url), download(url)] == [url, url]
    assert set(net.connected) == {_at(origin)}


ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture
def _hostile_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Origin]:
    """Set what libraries read of the environment; give the proxy that they would go to."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "")
    with Origin() as proxy:
        for name in ENVIRONMENT:
            monkeypatch.setenv(name, proxy.url())
        yield proxy
        assert proxy.connections == 0


@pytest.mark.usefixtures("_hostile_environment")
def test_the_environment_changes_no_destination(net: Net, origin: Origin) -> None:
    """Proxies would resolve names themselves; passwords are for whoever runs the service."""
    origin.serve("/a", JPEG)
    policy = AddressPolicy(allowed_sources=[origin.authority])
    sender = WebhookSender([KEY], policy, network=net.network)
    for scheme in ("http", "https"):
        hook = ClaimedWebhook("msg_1", "a", 1, 0, f"{scheme}://shop.example/hook", "{}")
        assert sender.send(hook).error == "shop.example refused the connection."
    assert sender.send(ClaimedWebhook("msg_1", "a", 1, 0, origin.url("/a"), "{}")).status == 200
    with _downloader(net, origin) as download:
        assert download(origin.url("/a")) == origin.url("/a")
        for scheme in ("http", "https"):
            assert download(f"{scheme}://shop.example/") == "connect_error"
    assert set(net.connected) == {_at(origin), (PUBLIC, 80), (PUBLIC, 443)}
    assert not any("authorization" in request.headers for request in origin.requests)


def test_the_environment_changes_no_trust(
    net: Net, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No authority is added by it, and the keys of connections are written nowhere."""
    authority, bundle = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(bundle))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with Origin(tls=context) as origin, _downloader(net, origin) as download:
        url = origin.serve("/a", JPEG)
        assert download(url) == "tls_error"
        trusting = Network(resolve=net.resolve, connect=net.connect, ca_bundle=str(bundle))
        policy = AddressPolicy(allowed_sources=[origin.authority])
        downloader = ImageDownloader(policy, LIMITS, connections=1, network=trusting)
        assert downloader.download(url).data == JPEG
        downloader.close()
    assert not (tmp_path / "keys").exists()


def test_credentials_in_a_redirect_are_sent_to_nobody(net: Net, origin: Origin) -> None:
    """Neither as a header nor in the URL that the image was found at."""
    origin.serve("/b", JPEG)
    url = origin.redirect("/a", f"http://user:hunter2@{origin.authority}/b#hunter3")
    with _downloader(net, origin) as download:
        assert download(url.replace("//", "//me:hunter1@")) == origin.url("/b")
    for request in origin.requests:
        assert "authorization" not in request.headers
        assert "hunter" not in str(request)


@pytest.mark.usefixtures("_in_worker")
def test_a_worker_connects_to_nothing_that_was_not_approved(
    net: Net, origin: Origin, database: Database, tmp_path: Path
) -> None:
    """A whole request of hostile URLs, redirects and names, and its webhook; one image is sound."""
    redirects = [
        origin.redirect(f"/{number}", url.strip(" ").encode().decode("latin-1"))
        for number, url in enumerate(BLOCKED[::7])
    ]
    rebound = origin.redirect("/rebound", "http://rebound.example/")
    sound = origin.serve("/sound.jpg", JPEG)
    queue = Queue(database, sound, rebound, *BLOCKED, *redirects)
    options = parse_options({}).to_json() | {"webhook_url": "http://mixed.example/hook"}
    queue.change_request(f"options = '{json.dumps(options)}', columns = array{COLUMNS}")
    settings = Settings.model_validate(
        {
            "compress_processes": 1,
            "allowed_sources": origin.authority,
            "webhook_secret": "whsec_" + "QUJD" * 8,
        }
    )
    with background_worker(settings, database, FolderStore(tmp_path)):
        wait_until(lambda: (queue.request["webhook"] or {}).get("last_error"))
    codes = [image["error_code"] for image in queue.images]
    assert codes[0] is None
    assert codes[1] == "blocked_address"
    assert set(codes[2:]) <= {"blocked_address", "invalid_url"}
    assert (
        queue.request["webhook"]["last_error"]
        == "mixed.example has an address that is not a public one."
    )
    assert set(net.connected) == {_at(origin), (PUBLIC, 80)}
    assert net.connected.count((PUBLIC, 80)) == 1
