"""Searches for inputs that break a promise of `targets`.

    .venv/bin/python -m tests.fuzz.fuzz [--minutes N] [--targets NAME …] [--corpus DIR …]
    .venv/bin/python -m tests.fuzz.fuzz --targets NAME --repeat FILE

Each target gets its share of the time in a process of its own: guided by coverage where atheris is
installed, else by chance. What was found interesting stays in `--folder` and is where the next run
goes on. The first finding ends its target; its input is kept, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from command_help import HelpFormatter
from tests.fuzz.one_target import INPUT_SECONDS
from tests.fuzz.seeds import SEEDS, words
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_INPUT_BYTES: Final = 4096
MEMORY_MIB: Final = 1024  # that a target's process may take
MARGIN_SECONDS: Final = 120.0  # for a target's process to start and to end
_FIGURES: Final = re.compile(r"stat::number_of_executed_units: *(\d+)|^#(\d+)\s", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.repeat and len(options.targets) != 1:
        parser.error("--repeat takes one target: --targets NAME")
    if options.repeat:
        TARGETS[options.targets[0]](options.repeat.read_bytes())
        print("no promise was broken")
        return 0
    if not importlib.util.find_spec("atheris"):
        print("atheris is not installed for this Python: inputs are made by chance, unguided")
    seconds = max(1, round(60 * options.minutes / len(options.targets)))
    found = [_run(name, seconds, options) for name in options.targets]
    return int(any(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument(
        "--targets",
        nargs="+",
        metavar="NAME",
        choices=TARGETS,
        default=list(TARGETS),
        help="what to search, all by default",
    )
    parser.add_argument("--corpus", nargs="+", type=Path, default=[], help="folders of more seeds")
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"), help="where inputs are kept")
    parser.add_argument("--repeat", type=Path, help="try one input instead")
    return parser


def _run(name: str, seconds: int, options: argparse.Namespace) -> bool:
    """Fuzz one target in a process of its own; tell whether it found something."""
    corpus, findings = options.folder / "corpus" / name, options.folder / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    dictionary = options.folder / f"{name}.dict"
    dictionary.write_text("".join(f'"{_quoted(word)}"\n' for word in sorted(words(SEEDS[name]))))
    before = set(findings.iterdir())
    log = options.folder / f"{name}.log"
    command = [
        *(sys.executable, "-m", "tests.fuzz.one_target", name, str(corpus)),
        *map(str, options.corpus),
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-dict={dictionary}",
        f"-artifact_prefix={findings}/{name}-",
        "-print_final_stats=1",
    ]
    code = None  # it hung
    with log.open("wb") as output, suppress(subprocess.TimeoutExpired):
        code = subprocess.run(
            command, stdout=output, stderr=output, timeout=seconds + MARGIN_SECONDS, check=False
        ).returncode
    text = log.read_text(errors="replace")
    executions = max((int(a or b) for a, b in _FIGURES.findall(text)), default=0)
    print(f"{name:16} {executions:>12,} inputs in {seconds} s", flush=True)
    if code != 0:
        what = "it hung, and was killed" if code is None else "a promise is broken"
        _tell(f"{name}: {what}\n{text[-3000:]}", name, set(findings.iterdir()) - before)
    return code != 0


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _tell(what: str, name: str, inputs: set[Path]) -> None:
    """Say what was found, and how to see it again."""
    print(what)
    for path in sorted(inputs):
        print(f"again: {sys.executable} -m tests.fuzz.fuzz --targets {name} --repeat {path}")


if __name__ == "__main__":
    sys.exit(main())
