"""Where settings stand, the environment or `.env`, for messages about them. Reads no value.

A bad setting is easier to mend when its place is told, and a misspelt one is no error but passed
over in silence: names that are nearly a setting's are worth a warning.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dotenv.parser import parse_stream

if TYPE_CHECKING:
    from collections.abc import Iterable

ENV_FILE: Final = ".env"
_LIKENESS: Final = 0.9  # a letter or two; POSTGRES_DB and HOSTNAME are other programs' names


def lines_of_env_file() -> dict[str, int]:
    """Return the line of `.env` on which each name stands, the last if it stands twice.

    Raises OSError and UnicodeDecodeError for a file that can't be read.
    """
    path = Path(ENV_FILE)
    if not path.is_file():
        return {}
    lines: dict[str, int] = {}
    with path.open(encoding="utf-8") as file:
        for binding in parse_stream(file):
            if binding.key:
                blank = len(binding.original.string) - len(binding.original.string.lstrip())
                above = binding.original.string[:blank].count("\n")
                lines[binding.key.upper()] = binding.original.line + above
    return lines


def place_of(name: str, lines: dict[str, int]) -> str:
    """Return where a variable was read; the environment goes before the file."""
    if name in (variable.upper() for variable in os.environ):
        return "in the environment"
    return f"{ENV_FILE} line {lines[name]}" if name in lines else "by default"


def misspelt(settings: Iterable[str]) -> list[str]:
    """Return a line for each variable that is no setting, but nearly is one."""
    known = {name.upper() for name in settings}
    lines = lines_of_env_file()
    unknown = sorted(({name.upper() for name in os.environ} | lines.keys()) - known)
    return [
        f"{name} ({place_of(name, lines)}) is no setting; perhaps {like[0]} is meant"
        for name in unknown
        if (like := difflib.get_close_matches(name, known, n=1, cutoff=_LIKENESS))
    ]
