"""The settings: read once at start from the environment and `.env`, validated together.

Built in the `main()` of each command and passed down; no other module reads the environment.
Every setting stands in the README's table, which a test holds against this class.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from address_policy import AddressPolicy, parse_allowed_source, parse_source_url
from errors import ImageError, SettingsError
from redaction import redact_url
from settings_places import ENV_FILE, lines_of_env_file, place_of
from webhook import parse_secrets

_KEY_DIGEST = re.compile(r"[0-9a-f]{64}")
NO_KEYS = "none"
SIGNED = "signed"
_TAKES = {  # where pydantic speaks to programmers
    "int_parsing": "takes an integer",
    "int_from_float": "takes an integer",
    "float_parsing": "takes a number",
    "byte_size": "takes bytes, like 52428800, or a number with a unit, like 50MiB",
    "byte_size_unit": "takes bytes, like 52428800, or a number with a unit, like 50MiB",
}
_SECRET = {"API_KEYS", "DATABASE_URL", "WEBHOOK_SECRET"}  # named in an error, never shown


def _comma_separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _sources(text: str) -> frozenset[str]:
    sources = frozenset(_comma_separated(text.lower()))
    for source in sources:
        parse_allowed_source(source)
    return sources


def _ports(text: str) -> frozenset[int]:
    parts = _comma_separated(text)
    if not parts or not all(p.isascii() and p.isdigit() and 1 <= int(p) <= 65_535 for p in parts):
        raise ValueError("takes port numbers from 1 to 65535, separated by commas")
    return frozenset(int(part) for part in parts)


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(part) for part in _comma_separated(text))
    except ValueError:
        raise ValueError(
            "takes addresses or networks like 10.0.0.0/8, separated by commas"
        ) from None


def _rate(per_second: float) -> float:
    if 0 < per_second < 1:
        raise ValueError("takes 0, for no limit, or 1 and more")
    return per_second


def _key_digests(text: str) -> frozenset[str] | None:
    """Return the digests; an empty set means that keys are off on purpose."""
    if text.strip().lower() == NO_KEYS:
        return frozenset()
    digests = frozenset(part.lower() for part in _comma_separated(text))
    if not all(_KEY_DIGEST.fullmatch(digest) for digest in digests):
        raise ValueError("takes SHA-256 digests of 64 hex digits separated by commas, or none")
    return digests or None


def _processors() -> int:
    """Return how many processors this process may use, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _base_url(text: str) -> str:
    """Return the URL as browsers write it: an ASCII host, no port that goes without saying."""
    try:
        url = "" if re.search(r"[\s?#@]", text) else parse_source_url(text).url.rstrip("/")
    except ImageError:
        url = ""
    if not url:
        raise ValueError("takes a URL like https://images.example.com")
    return url


def _storage_url(text: str) -> str:
    if not re.fullmatch(r"file:.+|s3://[^/\s]+(/.*)?", text):
        raise ValueError("takes file:PATH or s3://bucket/prefix")
    return text


def _public_files_url(text: str) -> str:
    try:
        return SIGNED if text.strip().lower() == SIGNED else _base_url(text)
    except ValueError as error:
        raise ValueError(str(error).replace("takes", f"takes {SIGNED}, or")) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


Sources = Annotated[frozenset[str], NoDecode, BeforeValidator(_sources)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]
Ports = Annotated[frozenset[int], NoDecode, BeforeValidator(_ports)]
KeyDigests = Annotated[frozenset[str] | None, NoDecode, BeforeValidator(_key_digests)]
WebhookSecret = Annotated[tuple[bytes, ...] | None, NoDecode, BeforeValidator(parse_secrets)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """What the environment asks for. Names are the variables' in lower case; sizes are bytes."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=False,
    )

    api_keys: KeyDigests = None  # before the host, which is judged by it
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    public_url: Annotated[str, AfterValidator(_base_url)] | None = None

    rate_limit: Annotated[float, Field(ge=0, le=1_000_000), AfterValidator(_rate)] = 100
    trusted_proxies: Networks = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

    database_url: str | None = Field(default=None, repr=False)  # has a password
    postgres_dir: str = "postgres-data"
    storage_url: Annotated[str, AfterValidator(_storage_url)] = "file:."
    aws_endpoint_url: Annotated[str, AfterValidator(_base_url)] | None = None
    public_files_url: Annotated[str, AfterValidator(_public_files_url)] | None = None

    allowed_sources: Sources = frozenset()
    source_ports: Ports = frozenset({80, 443})

    max_csv_bytes: ByteSize = Field(default=ByteSize(100 * 2**20), gt=0)
    max_csv_rows: PositiveInt = 1_000_000
    max_urls_per_row: PositiveInt = 100
    max_image_bytes: ByteSize = Field(default=ByteSize(50 * 2**20), gt=0)
    max_image_pixels: PositiveInt = 100_000_000
    max_image_frames: PositiveInt = 500

    connect_seconds: Seconds = 10
    download_seconds: Seconds = 60
    compress_seconds: Seconds = 60
    download_attempts: PositiveInt = 4
    download_concurrency: Annotated[int, Field(gt=0, le=1024)] = 64
    host_concurrency: PositiveInt = 8
    compress_processes: Annotated[int, Field(gt=0, le=1024)] = Field(default_factory=_processors)
    shutdown_seconds: Seconds = 30
    lease_seconds: Annotated[float, Field(ge=2, le=3600)] = 30
    retention_days: Annotated[float, Field(ge=0, le=36_500)] = 30

    webhook_secret: WebhookSecret = Field(default=None, repr=False)  # the keys themselves

    log_format: Literal["text", "json"] = "text"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return _is_loopback(self.host)

    @property
    def base_url(self) -> str:
        """The base of every URL handed out, without a slash at its end."""
        return self.public_url or self.own_url

    @property
    def own_url(self) -> str:
        """Where the service itself listens."""
        return f"http://{self._authority}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and "[" not in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def sources(self) -> frozenset[str]:
        """The `host:port` that may be fetched although their address is not public."""
        has_own = self.is_loopback and self.port  # port 0 is none until one is bound
        own = {self._authority, f"localhost:{self.port}"} if has_own else set()
        return self.allowed_sources | own

    @property
    def address_policy(self) -> AddressPolicy:
        """Which addresses may be connected to, for images and webhooks alike."""
        return AddressPolicy(allowed_sources=self.sources, ports=self.source_ports)

    def with_port(self, port: int) -> Settings:
        """Return these settings with the port that was really bound."""
        return self.model_copy(update={"port": port})

    @field_validator("host")
    @classmethod
    def _demand_keys_in_the_open(cls, host: str, info: ValidationInfo) -> str:
        if info.data.get("api_keys", NO_KEYS) is None and not _is_loopback(host):
            raise ValueError(
                "can be reached from other machines: set API_KEYS to the SHA-256 digests of the "
                f"accepted keys, or to {NO_KEYS} to do without"
            )
        return host

    @field_validator("public_files_url")
    @classmethod
    def _demand_a_signer(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url == SIGNED and not info.data.get("storage_url", "s3:").startswith("s3:"):
            raise ValueError(
                "only an s3: STORAGE_URL has URLs to sign; name the server of the files"
            )
        return url


def load_settings() -> Settings:
    """Read and validate every setting. Raises SettingsError with a line per bad one.

    What `.env` says of the bucket goes into the environment, as the bucket's client reads it there.
    """
    try:
        lines = lines_of_env_file()
        for name, value in dotenv_values(ENV_FILE).items():
            if name.startswith("AWS_") and value:
                os.environ.setdefault(name, value)
        return Settings()
    except ValidationError as error:
        problems = [_line(problem, lines) for problem in error.errors()]
        raise SettingsError("\n".join(problems)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{ENV_FILE}: can't be read: {error}") from None


def _line(problem: Any, lines: dict[str, int]) -> str:
    name = str(problem["loc"][0]).upper()
    shown = name if name in _SECRET else f"{name}={redact_url(str(problem['input']))}"
    message = _TAKES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "has to be")
    return f"{shown}: {message} ({place_of(name, lines)})"
