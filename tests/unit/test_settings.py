"""The settings: what each takes, and how a bad one is told."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from errors import SettingsError
from settings import Settings, load_settings
from settings_places import misspelt

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20
DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let only what a test sets be read: neither this shell's variables nor its `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def _load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    return load_settings()


def test_the_defaults_are_the_promised_ones() -> None:
    """With nothing set the service listens on loopback and brings all it needs."""
    assert load_settings().model_dump() == {
        "host": "127.0.0.1",
        "port": 8000,
        "public_url": None,
        "metrics_port": None,
        "database_url": None,
        "postgres_dir": "postgres-data",
        "storage_url": "file:.",
        "aws_endpoint_url": None,
        "public_files_url": None,
        "api_keys": None,
        "rate_limit": 100,
        "trusted_proxies": (IPv4Network("127.0.0.0/8"), IPv6Network("::1")),
        "allowed_sources": frozenset(),
        "source_ports": {80, 443},
        "max_csv_bytes": 100 * MIB,
        "max_csv_rows": 1_000_000,
        "max_urls_per_row": 100,
        "max_image_bytes": 50 * MIB,
        "max_image_pixels": 100_000_000,
        "max_image_frames": 500,
        "connect_seconds": 10,
        "download_seconds": 60,
        "compress_seconds": 60,
        "download_attempts": 4,
        "download_concurrency": 64,
        "host_concurrency": 8,
        "compress_processes": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "shutdown_seconds": 30,
        "lease_seconds": 30,
        "retention_days": 30,
        "webhook_secret": None,
        "log_format": "text",
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HOST", "::1", "::1"),
        ("PORT", "0", 0),
        ("PUBLIC_URL", "https://images.example.com/", "https://images.example.com"),
        ("PUBLIC_URL", "https://example.com/images/", "https://example.com/images"),
        ("PUBLIC_URL", "https://Bücher.example:443", "https://xn--bcher-kva.example"),
        ("PUBLIC_URL", "http://server:8000", "http://server:8000"),
        ("DATABASE_URL", "postgresql://shop@db/images", "postgresql://shop@db/images"),
        ("POSTGRES_DIR", "elsewhere", "elsewhere"),
        ("STORAGE_URL", "file:/var/images", "file:/var/images"),
        ("STORAGE_URL", "s3://bucket/pre/fix", "s3://bucket/pre/fix"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("PUBLIC_FILES_URL", "https://cdn.example.com/images/", "https://cdn.example.com/images"),
        ("API_KEYS", f" {DIGEST.upper()} , {'0' * 64} ", {DIGEST, "0" * 64}),
        ("API_KEYS", "None", frozenset()),
        ("API_KEYS", " , ", None),
        ("ALLOWED_SOURCES", "CDN.shop:8080, [::1]:9", {"cdn.shop:8080", "[::1]:9"}),
        ("SOURCE_PORTS", "443, 8443", {443, 8443}),
        ("RATE_LIMIT", "0", 0),
        ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
        ("MAX_CSV_BYTES", "2000", 2000),
        ("MAX_CSV_BYTES", "100MiB", 100 * MIB),
        ("MAX_IMAGE_BYTES", "1.5 kb", 1500),
        ("CONNECT_SECONDS", "0.5", 0.5),
        ("COMPRESS_PROCESSES", "3", 3),
        ("LEASE_SECONDS", "2.5", 2.5),
        ("RETENTION_DAYS", "0", 0),
        ("RETENTION_DAYS", "0.5", 0.5),
        ("WEBHOOK_SECRET", f"whsec_{'QUJD' * 8}", (b"ABC" * 8,)),
        ("WEBHOOK_SECRET", f"whsec_{'QUJD' * 21}QQ==", (b"ABC" * 21 + b"A",)),
        ("LOG_FORMAT", "json", "json"),
        ("PORT", "", 8000),
    ],
)
def test_a_variable_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any
) -> None:
    """Each kind of value is read in the forms that people write; an empty one is unset."""
    assert getattr(_load(monkeypatch, **{name: text}), name.lower()) == value


BAD = [
    ("PORT", "http", "integer"),
    ("PORT", "-1", "greater than or equal to 0"),
    ("PORT", "65536", "less than or equal to 65535"),
    ("PUBLIC_URL", "images.example.com", "takes a URL like https://"),
    ("PUBLIC_URL", "https://a b", "takes a URL like https://"),
    ("PUBLIC_URL", "https://example.com/?a=b", "takes a URL like https://"),
    ("STORAGE_URL", "/var/images", "takes file:PATH or s3://bucket/prefix"),
    ("STORAGE_URL", "s3:///prefix", "takes file:PATH or s3://bucket/prefix"),
    ("STORAGE_URL", "file:", "takes file:PATH or s3://bucket/prefix"),
    ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "takes a URL like https://images.example.com"),
    ("PUBLIC_FILES_URL", "yes", "takes signed, or a URL like https://images.example.com"),
    ("PUBLIC_FILES_URL", "signed", "only an s3: STORAGE_URL has URLs to sign"),
    ("PUBLIC_FILES_URL", "https://cdn.example.com/?a=b", "takes signed, or a URL like"),
    ("ALLOWED_SOURCES", "cdn.shop", "'cdn.shop' is not host:port"),
    ("ALLOWED_SOURCES", "a:80,http://b:80", "'http://b:80' is not host:port"),
    ("ALLOWED_SOURCES", "cdn.shop:0", "'cdn.shop:0' is not host:port"),
    ("ALLOWED_SOURCES", "cdn.shop:65536", "'cdn.shop:65536' is not host:port"),
    ("ALLOWED_SOURCES", "a:80,169.254.169.254:80", "'169.254.169.254:80' is a cloud metadata"),
    ("ALLOWED_SOURCES", "[fd00:ec2::254]:80", "'[fd00:ec2::254]:80' is a cloud metadata address"),
    ("SOURCE_PORTS", "80;443", "takes port numbers from 1 to 65535"),
    ("SOURCE_PORTS", "0", "takes port numbers from 1 to 65535"),
    ("SOURCE_PORTS", "65536", "takes port numbers from 1 to 65535"),
    ("SOURCE_PORTS", "٨٠", "takes port numbers from 1 to 65535"),
    ("SOURCE_PORTS", ",", "takes port numbers from 1 to 65535"),
    ("MAX_CSV_BYTES", "0", "greater than 0"),
    ("MAX_CSV_BYTES", "lots", "byte"),
    ("MAX_CSV_ROWS", "0", "greater than 0"),
    ("MAX_URLS_PER_ROW", "-1", "greater than 0"),
    ("MAX_IMAGE_BYTES", "10 apples", "unit"),
    ("MAX_IMAGE_PIXELS", "1.5", "integer"),
    ("MAX_IMAGE_FRAMES", "0", "greater than 0"),
    ("CONNECT_SECONDS", "0", "greater than 0"),
    ("CONNECT_SECONDS", "nan", "less than or equal to 86400"),
    ("DOWNLOAD_SECONDS", "inf", "less than or equal to 86400"),
    ("COMPRESS_SECONDS", "soon", "number"),
    ("DOWNLOAD_ATTEMPTS", "0", "greater than 0"),
    ("DOWNLOAD_CONCURRENCY", "1025", "less than or equal to 1024"),
    ("HOST_CONCURRENCY", "0", "greater than 0"),
    ("RATE_LIMIT", "-1", "greater than or equal to 0"),
    ("RATE_LIMIT", "0.5", "takes 0, for no limit, or 1 and more"),
    ("TRUSTED_PROXIES", "10.0.0.1/8", "takes addresses or networks like"),
    ("TRUSTED_PROXIES", "proxy.local", "takes addresses or networks like"),
    ("COMPRESS_PROCESSES", "0", "greater than 0"),
    ("SHUTDOWN_SECONDS", "-3", "greater than 0"),
    ("LEASE_SECONDS", "1.9", "greater than or equal to 2"),
    ("LEASE_SECONDS", "3601", "less than or equal to 3600"),
    ("RETENTION_DAYS", "-1", "greater than or equal to 0"),
    ("RETENTION_DAYS", "a month", "number"),
    ("LOG_FORMAT", "xml", "'text' or 'json'"),
]


@pytest.mark.parametrize(("name", "text", "takes"), BAD)
def test_a_bad_value_is_named_with_what_is_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, takes: str
) -> None:
    """A bad value stops the start with one line: the variable, its value, what it takes."""
    with pytest.raises(SettingsError) as caught:
        _load(monkeypatch, **{name: text})
    line = caught.value.detail
    assert line.startswith(f"{name}={text}: ")
    assert takes in line
    assert "\n" not in line


def test_decoders_are_as_many_as_processors_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not as many as the machine has, unless the system doesn't tell."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert load_settings().compress_processes == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert load_settings().compress_processes == 64


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start the service once for every mistake."""
    bad = {"PORT": "x", "LOG_FORMAT": "xml", "MAX_CSV_ROWS": "0", "HOST": "0.0.0.0"}
    with pytest.raises(SettingsError) as caught:
        _load(monkeypatch, **bad)
    lines = caught.value.detail.splitlines()
    assert len(lines) == len(bad)
    assert all(any(name in line for line in lines) for name in bad)


@pytest.mark.parametrize("text", ["hunter2", f"{DIGEST},hunter2", DIGEST[1:]])
def test_a_bad_key_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The error of a secret names its variable and keeps its value to itself."""
    with pytest.raises(SettingsError) as caught:
        _load(monkeypatch, API_KEYS=text)
    assert caught.value.detail.startswith("API_KEYS: takes SHA-256 digests")
    assert text not in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        *("hunter2", "whsec_", "whsec_hunter2", f"wsec_{'QUJD' * 8}", "QUJD" * 8),
        *(f"whsec_{'QUJD' * 7}QUI=", f"whsec_{'QUJD' * 21}QUI=", f"whsec_{'QUJD' * 8}QQ"),
        *(f"whsec_{'QUJD' * 8}-_-_", f"whsec_ {'QUJD' * 8}", f"whsec_{'QUJD' * 8},hunter2"),
        ",",
    ],
)
def test_a_bad_webhook_secret_is_named_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Another prefix, no base64, or a key of a length that the standard has not: no start."""
    with pytest.raises(SettingsError) as caught:
        _load(monkeypatch, WEBHOOK_SECRET=text)
    takes = (
        "takes whsec_ and then the base64 of 24 to 64 random bytes; several, with commas between "
        "(in the environment)"
    )
    assert caught.value.detail == f"WEBHOOK_SECRET: {takes}"


@pytest.mark.parametrize("between", [",", " ", ", ", "\n"])
def test_a_webhook_secret_may_have_a_successor(
    monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """All of them sign until receivers know the new one."""
    text = between.join(f"whsec_{letters * 8}" for letters in ("QUJD", "REVG"))
    settings = _load(monkeypatch, WEBHOOK_SECRET=text)
    assert settings.webhook_secret == (b"ABC" * 8, b"DEF" * 8)


def test_secrets_stay_out_of_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that get into a log or a traceback tell no key and no password."""
    url = "postgresql://shop:hunter2@db/images"
    settings = _load(monkeypatch, WEBHOOK_SECRET=f"whsec_{'QUJD' * 8}", DATABASE_URL=url)
    for text in (repr(settings), str(settings)):
        assert "ABC" not in text
        assert "hunter2" not in text


@pytest.mark.parametrize("name", ["PUBLIC_URL", "STORAGE_URL"])
def test_a_bad_url_is_shown_without_credentials(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where a URL does not belong, or should have no password, none is printed."""
    with pytest.raises(SettingsError) as caught:
        _load(monkeypatch, **{name: "ftp://key:hunter2@shop.example/ x"})
    assert caught.value.detail.startswith(f"{name}=ftp://***@shop.example/ x: takes ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "shop.example"])
def test_an_open_host_demands_keys(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A service that others can reach does not start without a word on keys."""
    with pytest.raises(SettingsError, match=r"HOST=.*: .*API_KEYS"):
        _load(monkeypatch, HOST=host)
    assert _load(monkeypatch, HOST=host, API_KEYS="none").api_keys == frozenset()
    assert _load(monkeypatch, HOST=host, API_KEYS=DIGEST).api_keys == frozenset({DIGEST})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"])
def test_a_loopback_host_needs_no_keys(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """What only this machine can reach starts without keys."""
    assert _load(monkeypatch, HOST=host).is_loopback


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123"),
        ("::1", "http://[::1]:8123"),
        ("[::1]", "http://[::1]:8123"),
        ("localhost", "http://localhost:8123"),
    ],
)
def test_urls_stand_on_the_port_that_was_bound(
    monkeypatch: pytest.MonkeyPatch, host: str, base: str
) -> None:
    """Port 0 becomes the bound one in every URL; PUBLIC_URL goes before."""
    bound = _load(monkeypatch, HOST=host, PORT="0").with_port(8123)
    assert (bound.own_url, bound.base_url) == (base, base)
    public = _load(monkeypatch, PUBLIC_URL="https://cdn.example").with_port(8123)
    assert (public.own_url, public.base_url) == (base, "https://cdn.example")


def test_the_service_may_fetch_from_itself_on_loopback_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`test.csv` works as it stands on loopback; in the open nothing is allowed unasked."""
    allowed = {"cdn.shop:81"}
    settings = _load(monkeypatch, ALLOWED_SOURCES="cdn.shop:81", PORT="8123")
    assert settings.sources == allowed | {"127.0.0.1:8123", "localhost:8123"}
    assert _load(monkeypatch, HOST="0.0.0.0", API_KEYS="none").sources == allowed
    assert "[::1]:8123" in _load(monkeypatch, HOST="::1").sources


def test_a_file_gives_what_the_environment_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`.env` of the working directory is read; a variable goes before it, others may stand in it."""
    (tmp_path / ".env").write_text("PORT=8123\nLOG_FORMAT=json\nSOMETHING_ELSE=1\n")
    settings = _load(monkeypatch, LOG_FORMAT="text")
    assert (settings.port, settings.log_format) == (8123, "text")


def test_a_bad_line_of_the_file_is_named_too(tmp_path: Path) -> None:
    """A bad value in `.env` is told like one of the environment, with its line."""
    (tmp_path / ".env").write_text("# where\n\nPORT=x\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.detail == "PORT=x: takes an integer (.env line 3)"


def test_the_environment_is_blamed_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bad value is told to be where it was read, though the file has another."""
    (tmp_path / ".env").write_text("LOG_FORMAT=json\n")
    with pytest.raises(SettingsError) as caught:
        _load(monkeypatch, LOG_FORMAT="xml")
    assert caught.value.detail == "LOG_FORMAT=xml: has to be 'text' or 'json' (in the environment)"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAX_CSV_ROW", "MAX_CSV_ROWS"),
        ("download_attempt", "DOWNLOAD_ATTEMPTS"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("HOSTNAME", ""),
        ("POSTGRES_DB", ""),
        ("port", ""),  # is one
    ],
)
def test_a_misspelt_name_is_found(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    """A name a letter or two off a setting's is likely meant for it; other programs' names are not."""
    monkeypatch.setenv(name, "1")
    found = [line for line in misspelt(Settings.model_fields) if line.startswith(name.upper())]
    expected = f"{name.upper()} (in the environment) is no setting; perhaps {meant} is meant"
    assert found == ([expected] if meant else [])


def test_settings_do_not_change() -> None:
    """What was read at the start stays."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]  # what it is about


def test_a_file_gives_the_bucket_s_client_what_it_reads_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Credentials in `.env` are found where that client looks; a variable goes before them."""
    for name in ("AWS_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "of the environment")
    lines = ["AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=x", "AWS_ACCESS_KEY_ID=", "OTHER=1"]
    (tmp_path / ".env").write_text("\n".join(lines))
    load_settings()
    assert os.environ["AWS_REGION"] == "eu-west-1"
    assert os.environ["AWS_DEFAULT_REGION"] == "of the environment"
    assert not {"AWS_ACCESS_KEY_ID", "OTHER"} & set(os.environ)


def test_a_bucket_may_have_its_urls_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the case of the word."""
    settings = _load(monkeypatch, STORAGE_URL="s3://bucket", PUBLIC_FILES_URL="Signed")
    assert settings.public_files_url == "signed"
