"""The encoders that `quality.py` sets side by side, and the processes that run them.

An encoder is data: a label, the tool that has it, and its settings. A tool is a long-lived child
process that takes one job after the other (`quality_child.py`, `sharp_encode.mjs`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from decoder import decoder_handle

_HERE: Final = Path(__file__).resolve().parent
_COMMANDS: Final = {
    "python": [sys.executable, str(_HERE / "quality_child.py")],
    "sharp": ["node", str(_HERE / "sharp_encode.mjs")],
}
# Memory and threads as decoders have them, for all.
_ENVIRONMENT: Final = os.environ | decoder_handle._ENVIRONMENT  # noqa: SLF001  nobody else needs it
EFFORTS: Final = ("fast", "balanced", "best")
FORMATS: Final = ("jpeg", "webp", "avif")


@dataclass(frozen=True, slots=True)
class Encoder:
    """`outer` are qualities that score about 66 and 84 on most photos: where the search begins."""

    label: str
    format: str
    tool: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    outer: tuple[int, int] = (58, 88)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder gave. `said` is the quality it took, in its own words."""

    data: bytes
    cpu_seconds: float
    said: str


REFERENCE: Final = "sharp mozjpeg"
BASELINE: Final = "Pillow default"


def peers_and_ours() -> list[Encoder]:
    """Return every encoder that has a quality, those of sharp only where it is installed."""
    ours = [
        Encoder(
            f"ours {format_} {effort}",
            format_,
            "python",
            "ours",
            {"target": format_, "effort": effort},
            outer,
        )
        for format_, outer in (("jpeg", (58, 86)), ("webp", (60, 90)), ("avif", (45, 75)))
        for effort in EFFORTS
    ]
    others = [
        Encoder(BASELINE, "jpeg", "python", "pillow"),
        Encoder(
            "Pillow progressive",
            "jpeg",
            "python",
            "pillow",
            {"optimize": True, "progressive": True},
        ),
        Encoder("jpegli (pyjpegli)", "jpeg", "python", "jpegli", outer=(62, 86)),
    ]
    sharp = [
        Encoder("sharp", "jpeg", "sharp", "sharp", {"format": "jpeg"}),
        Encoder(REFERENCE, "jpeg", "sharp", "sharp", {"format": "jpeg", "mozjpeg": True}),
        Encoder("sharp webp", "webp", "sharp", "sharp", {"format": "webp"}, (60, 90)),
        Encoder("sharp avif", "avif", "sharp", "sharp", {"format": "avif"}, (45, 75)),
    ]
    encoders = [*others, *(sharp if has_sharp() else []), *ours]
    return sorted(encoders, key=lambda encoder: FORMATS.index(encoder.format))


@cache
def has_sharp() -> bool:
    """Tell whether Node is there and the packages of benchmarks/package.json are installed."""
    return bool(shutil.which("node")) and (_HERE / "node_modules" / "sharp").is_dir()


class Tools:
    """One child of each tool, started when it is first wanted, ended with the block."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.communicate()  # the end of its input is the end of it

    def encode(self, encoder: Encoder, data: bytes, **settings: Any) -> Encoded:
        """Have one image encoded, with further settings such as `quality`."""
        child = self._child(encoder.tool)
        assert child.stdin
        assert child.stdout
        job = {
            "encoder": encoder.name,
            "length": len(data),
            "settings": encoder.settings | settings,
        }
        child.stdin.write(json.dumps(job).encode() + b"\n" + data)
        child.stdin.flush()
        line = child.stdout.readline()
        assert line, f"{encoder.label}: the process of {encoder.tool} ended"
        answer = json.loads(line)
        assert not answer["said"].startswith("error"), f"{encoder.label}: {answer['said']}"
        return Encoded(child.stdout.read(answer["length"]), answer["cpu"], answer["said"])

    def _child(self, tool: str) -> subprocess.Popen[bytes]:
        if tool not in self._children:
            self._children[tool] = subprocess.Popen(
                _COMMANDS[tool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_ENVIRONMENT
            )
        return self._children[tool]
