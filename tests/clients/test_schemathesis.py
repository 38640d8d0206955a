"""The service against its description: schemathesis asks for whatever that allows and forbids.

Each run has a seed, so it asks for the same every time. For others, and more:

    .venv/bin/schemathesis run http://127.0.0.1:8000/openapi.json --checks all --max-examples 1000
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.service import ROOT, Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_helper import Database

RUN_SECONDS = 110
KEY = "a key"
SETTINGS = {
    "open": {},
    "with keys and webhooks": {
        "API_KEYS": hashlib.sha256(KEY.encode()).hexdigest(),
        "WEBHOOK_SECRET": f"whsec_{base64.b64encode(bytes(32)).decode()}",
    },
}


def schemathesis(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as somebody does in the project's folder, but leave nothing there."""
    program = Path(sys.executable).with_name("schemathesis")
    config = ("--config-file", str(ROOT / "schemathesis.toml"))
    return subprocess.run(
        [program, *config, "run", *arguments, "--checks", "all", "--no-color"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_fault_is_found(kind: str, new_database: Callable[[], Database], tmp_path: Path) -> None:
    """All checks hold: of examples, of every bound, of what chance makes, and of calls in a row."""
    key = ["--header", f"Authorization: Bearer {KEY}"] if SETTINGS[kind] else []
    with Service(tmp_path, new_database(), "--no-worker", **SETTINGS[kind]) as service:
        found = schemathesis(
            tmp_path, f"{service.url}/openapi.json", "--seed=1", "--max-examples=40", *key
        )
    assert found.returncode == 0, found.stdout + found.stderr
    phases = re.findall(r"✅  (Examples|Coverage|Fuzzing|Stateful)", found.stdout)
    assert phases == ["Examples", "Coverage", "Fuzzing", "Stateful"]
    cases = re.search(r"(\d+) generated", found.stdout)
    assert cases, found.stdout
    assert int(cases[1]) > 1000
