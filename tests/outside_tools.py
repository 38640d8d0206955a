"""Tools that tests take from outside Python: a browser, and what npm installs.

Where they are missing the tests that need them are skipped, and say why. Where REQUIRE_CLIENTS is
set, as `.ci/run` does, they fail instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NODE_MODULES = Path(__file__).parent / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def npm_file(path: str) -> Path:
    """Return a file of a package of tests/package.json."""
    file = NODE_MODULES / path
    if not file.exists():
        _miss(f"{path} is missing: `make test` installs it where there is npm")
    return file


def program(name: str) -> str:
    """Return where a program is."""
    return shutil.which(name) or _miss(f"there is no {name}")


def browser_program() -> str:
    """Return where the system's Chromium is."""
    found = filter(None, map(shutil.which, BROWSERS))
    return next(found, None) or _miss(f"there is no browser: none of {', '.join(BROWSERS)}")


def _miss(reason: str) -> str:
    if os.environ.get("REQUIRE_CLIENTS"):
        pytest.fail(reason)
    pytest.skip(reason)
