"""The service knows what is compressed and what comes out, and leaves the codecs to decoders."""

from __future__ import annotations

import subprocess
import sys

import pytest

from codec.codec_version import CODEC

_TELL = """
import sys
import {module}
print(*sorted({{"PIL", "mozjpeg_lossless_optimization", "numpy", "oxipng"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("module", ["server", "image_processor"])
def test_the_service_loads_no_codec(module: str) -> None:
    """They take memory, and what decodes is in no process with secrets."""
    code = _TELL.format(module=module)
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=CODEC.parent, capture_output=True, check=True
    )
    assert told.stdout.split() == []
