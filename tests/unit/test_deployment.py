"""What the service is deployed by: the image, the compose file, the units of systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compose_spec import PyOptions
from compose_spec.models import ServiceDependsOnCondition

from embedded_postgres import _STOP_STEPS
from settings import Settings

if TYPE_CHECKING:
    from compose_spec import PyCompose
    from compose_spec.models import Service

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()
UNITS = {path.name: path.read_text() for path in (ROOT / "deploy").glob("*.service")}
OURS = ("server", "worker")
SETTINGS = {name.upper() for name in Settings.model_fields}
OTHERS = {"TMPDIR"}  # of Python's
# Of what git has, whatever is neither here nor in the image is a mistake.
NOT_TO_RUN = re.compile(
    r"(tests|benchmarks|docs|deploy|\.ci)/.*|[^/]+\.md|migrations/README\.md|requirements-.+\.txt|"
    r"(pyproject|schemathesis)\.toml|Makefile|Dockerfile|compose\.yaml|\.dockerignore|\.gitignore|demo\.py|"
    r"samples/make_samples\.py|(uploads|static)/\.gitkeep"
)
NEVER = [
    ".env",
    ".git/config",
    ".venv/bin/python",
    "postgres-data/data/PG_VERSION",
    "uploads/a/a-1.jpg",
    "static/a.csv",
    "tests/conftest.py",
    "samples/__pycache__/make_samples.cpython-311.pyc",
    "node_modules/x/index.js",
    "shop-output.csv",
]


# The image


def test_hadolint_finds_no_fault() -> None:
    """The Dockerfile passes hadolint, every rule of it."""
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, check=False)
    assert ended.stdout.decode() == ""
    assert ended.returncode == 0


def test_the_base_is_pinned() -> None:
    """Every stage is from one release of Python and of Debian."""
    assert re.search(r"^ARG PYTHON=3\.\d+-slim-[a-z]+$", DOCKERFILE, re.MULTILINE)
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(stages) == {"python:${PYTHON}"}


def test_the_image_runs_as_nobody_s_user() -> None:
    """The last user is one of the image's own, by number, so that root is seen not to be meant."""
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"


@pytest.mark.parametrize("instruction", ["CMD", "HEALTHCHECK"])
def test_signals_reach_the_process(instruction: str) -> None:
    """No shell stands between the container and its command."""
    text = DOCKERFILE.replace("\\\n", "")
    (line,) = re.findall(rf"^{instruction} (.+)$", text, re.MULTILINE)
    assert re.search(r'(^|CMD )\["/app/\.venv/bin/python", .+\]$', line)


def test_the_image_knows_its_settings() -> None:
    """What the image sets is a setting, at a value that it takes."""
    (block,) = re.findall(r"^ENV ((?:.+\\\n)*.+)$", DOCKERFILE, re.MULTILINE)
    values = dict(part.split("=", 1) for part in block.replace("\\\n", "").split())
    assert values.keys() <= SETTINGS | OTHERS
    ours = {name.lower(): text for name, text in values.items() if name in SETTINGS}
    assert Settings(**ours, api_keys="none").host == "0.0.0.0"


def test_what_is_copied_exists() -> None:
    """No file is copied by name that is not there or that is kept out."""
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in set(names.split()) - {"."}:
            assert (ROOT / name).exists()
            assert not is_ignored(name)


@cache
def _ignore_rules() -> list[tuple[bool, re.Pattern[str]]]:
    """Return the lines of .dockerignore: whether each takes back in, and what paths it is about."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [
        (line.startswith("!"), _pattern(line.removeprefix("!")))
        for line in lines
        if line and not line.startswith("#")
    ]


def _pattern(rule: str) -> re.Pattern[str]:
    """Return a rule of .dockerignore as an expression; a folder's stands for all that it holds."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*)", rule)
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def is_ignored(path: str) -> bool:
    """Tell whether .dockerignore keeps a file out: the last rule that is about it decides."""
    matching = [takes_in for takes_in, rule in _ignore_rules() if rule.fullmatch(path)]
    return bool(matching) and not matching[-1]


def _tracked() -> list[str]:
    """Return the files that git has."""
    listing = ["git", "ls-files"]
    ended = subprocess.run(listing, cwd=ROOT, capture_output=True, check=False)
    if ended.returncode:
        pytest.skip("not a checkout of git")
    return [name for name in ended.stdout.decode().splitlines() if (ROOT / name).is_file()]


def test_what_running_needs_is_in_the_image() -> None:
    """Every file of the project is in the image, or known not to be needed there."""
    assert [
        name for name in _tracked() if is_ignored(name) and not NOT_TO_RUN.fullmatch(name)
    ] == []


def test_nothing_else_is_in_the_image() -> None:
    """Tests, papers and tools stay out."""
    assert [
        name for name in _tracked() if not is_ignored(name) and NOT_TO_RUN.fullmatch(name)
    ] == []


@pytest.mark.parametrize("path", NEVER)
def test_secrets_and_data_stay_out(path: str) -> None:
    """What lies about in a folder that is worked in never gets into an image."""
    assert is_ignored(path)


# The compose file


def _compose() -> PyCompose:
    return PyOptions(apply_merge=True).from_yaml(COMPOSE)


def _service(name: str) -> Service:
    service = _compose().get_service(name)
    assert service is not None
    return service


def test_compose_is_well_formed() -> None:
    """Compose's own schema takes the file, and what it names is defined."""
    compose = _compose()
    compose.validate()
    assert compose.service_names() == ["database", "server", "worker"]


@pytest.mark.parametrize("name", ["database", *OURS])
def test_every_service_is_confined(name: str) -> None:
    """Each may do little, has an end to its memory, and comes back after a crash."""
    service = _service(name)
    assert service.read_only is True
    assert {str(entry) for entry in service.cap_drop or ()} == {"ALL"}
    assert "no-new-privileges:true" in {str(entry) for entry in service.security_opt or ()}
    assert service.restart == "unless-stopped"
    assert service.mem_limit
    assert service.pids_limit
    assert service.tmpfs
    assert service.init is True  # orphans have somebody to bury them
    assert re.fullmatch(r"[a-z-]+:[0-9][0-9.]*", str(service.image))


@pytest.mark.parametrize("name", OURS)
def test_services_are_given_settings(name: str) -> None:
    """Every variable is a setting, so that none is misspelt, and each has the time to drain."""
    service = _service(name)
    environment: dict[str, str] = _compose().to_dict()["services"][name]["environment"]
    assert environment.keys() <= SETTINGS
    assert {"DATABASE_URL", "STORAGE_URL", "PUBLIC_URL", "API_KEYS"} <= environment.keys()
    assert float(environment["SHUTDOWN_SECONDS"]) < float(
        str(service.stop_grace_period).rstrip("s")
    )
    assert isinstance(service.depends_on, dict)
    assert service.depends_on["database"].condition is ServiceDependsOnCondition.service_healthy


def test_secrets_have_no_default() -> None:
    """What must be secret has to be given: no example of ours ever opens a service."""
    for name in ("POSTGRES_PASSWORD", "API_KEYS", "PUBLIC_URL"):
        assert set(re.findall(rf"\$\{{{name}(.*?)\}}", COMPOSE)) == {":?"}


def test_two_workers_share_the_files() -> None:
    """Two workers stand beside a server that has none, over one folder and one database."""
    server, worker = _service("server"), _service("worker")
    assert (server.command or [])[-1] == "--no-worker"
    assert worker.deploy
    assert worker.deploy.replicas == 2
    assert set(server.volumes or ()) == set(worker.volumes or ()) == {"files:/data"}


def test_only_loopback_is_published() -> None:
    """Nobody reaches the service but by the proxy in front, and PostgreSQL nobody at all."""
    assert {str(port) for port in _service("server").ports or ()} == {"127.0.0.1:8000:8000"}
    assert not _service("database").ports
    assert not _service("worker").ports


# systemd


def _lines(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNITS[name], re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_units_differ_in_what_they_start_alone() -> None:
    """What holds for the server holds for its workers."""
    server, worker = _lines("csv-image-compressor.service"), _lines("csv-image-worker@.service")
    differing = {key for key in server.keys() | worker.keys() if server.get(key) != worker.get(key)}
    assert differing == {"Description", "After", "Environment", "ExecStart"}


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_lets_the_service_end_by_itself(name: str) -> None:
    """The signal goes to the main process, which gets longer than it may take."""
    lines = _lines(name)
    postgres = sum(seconds for _, seconds in _STOP_STEPS)
    longest = Settings.model_fields["shutdown_seconds"].default + postgres
    assert float(lines["TimeoutStopSec"][0]) > longest
    assert lines["KillMode"] == ["mixed"]  # a signal to PostgreSQL too would keep us from draining
    assert lines["OOMPolicy"] == ["continue"]  # a decoder's end is not the service's
    script = re.search(r" /opt/csv-image-compressor/(\S+)", lines["ExecStart"][0])
    assert script
    assert (ROOT / script[1]).exists()


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_lets_decoders_raise_their_cage(name: str) -> None:
    """The filter of system calls leaves those by which a decoder gives up all others."""
    allowed = set(" ".join(_lines(name)["SystemCallFilter"]).split())
    assert {
        "seccomp",
        "setpriority",
        "landlock_create_ruleset",
        "landlock_restrict_self",
    } <= allowed


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(
    "arguments",
    [["verify"], ["security", "--offline=yes", "--threshold=20"]],
    ids=["verify", "security"],
)
def test_systemd_takes_a_unit(name: str, arguments: list[str], tmp_path: Path) -> None:
    """Every line means something to systemd, and finds less to complain of than in nearly any other unit."""
    unit = tmp_path / name
    installed = "/opt/csv-image-compressor/.venv/bin/python"  # has to exist
    unit.write_text(UNITS[name].replace(f"ExecStart={installed}", f"ExecStart={sys.executable}"))
    analyze = ["systemd-analyze", "--no-pager", *arguments, str(unit)]
    ended = subprocess.run(analyze, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert ended.stderr == ""
