"""A peer: requests and Pillow in threads, as most would write it first or as it can be tuned.

    benchmarks/peer_threads.py JOB.json

First: a plain `requests.get`, and the picture saved into memory with optimised codes. Tuned: a
session a thread, and saved into the file, where Pillow lets go of the interpreter's lock.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from PIL import Image

_thread = threading.local()


def _session() -> requests.Session:
    if not hasattr(_thread, "session"):
        _thread.session = requests.Session()
        _thread.session.trust_env = False  # half a millisecond an image
    session: requests.Session = _thread.session
    return session


def _compress(job: dict[str, Any], number: int) -> None:
    get = _session().get if job["is_tuned"] else requests.get
    answer = get(job["urls"][number], timeout=60)
    answer.raise_for_status()
    image = Image.open(io.BytesIO(answer.content))
    if job["max_side"]:
        image.thumbnail((job["max_side"], job["max_side"]), Image.Resampling.LANCZOS)
    output = Path(job["output"], f"{number}.{job['format']}")
    if job["is_tuned"]:
        image.convert("RGB").save(output, quality=job["quality"])
        return
    saved = io.BytesIO()
    kind = "JPEG" if job["format"] == "jpg" else job["format"]
    image.convert("RGB").save(saved, kind, quality=job["quality"], optimize=True)
    output.write_bytes(saved.getvalue())


def main() -> None:
    """Do the job, say so, and stay until the input ends."""
    job = json.loads(Path(sys.argv[1]).read_text())
    with ThreadPoolExecutor(job["concurrency"]) as pool:
        for _ in pool.map(lambda number: _compress(job, number), range(len(job["urls"]))):
            pass
    print("Done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
