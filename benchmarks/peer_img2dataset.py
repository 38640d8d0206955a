"""A peer: img2dataset, in a virtual environment of its own (`requirements-img2dataset.txt`).

    PYTHON benchmarks/peer_img2dataset.py JOB.json

Its processes are spawned, so each of them runs the top of this file: none of them may speak to
anything beyond loopback, whatever its dependencies would like to report or to look up.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
SHARDS_A_PROCESS = 3  # so that none waits long for another at the end
# What it does on the side by default: our service takes hashes, too, and handles the metadata.
_LEFT_OUT: dict[str, Any] = {
    "extract_exif": False,
    "compute_hash": None,
    "disallowed_header_directives": [],
}


def _stay_on_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    # Names are looked up in native code, by packets of its own; addresses are connected to.
    if event == "socket.getaddrinfo" and arguments[0] not in {None, "127.0.0.1", "localhost"}:
        raise PermissionError(f"{arguments[0]} was to be looked up")
    if event in {"socket.connect", "socket.sendto"}:
        address = arguments[1]
        if isinstance(address, tuple) and address[0] != "127.0.0.1":
            raise PermissionError(f"{address[0]} was to be spoken to")


sys.addaudithook(_stay_on_loopback)


def main() -> None:
    """Do the job, say so, and stay until the input ends."""
    from img2dataset import (  # type: ignore[import-not-found]  # noqa: PLC0415  not in every child
        download,
    )

    job = json.loads(Path(sys.argv[1]).read_text())
    processes = job["settings"]["processes_count"]
    shards = SHARDS_A_PROCESS * processes
    urls = Path(job["output"]).with_suffix(".txt")
    urls.write_text("\n".join(job["urls"]) + "\n")
    download(
        url_list=str(urls),
        output_folder=job["output"],
        input_format="txt",
        output_format="files",
        encode_format=job["format"],
        encode_quality=1 if job["format"] == "png" else job["quality"],  # how hard zlib tries
        resize_mode="keep_ratio_largest" if job["max_side"] else "no",
        image_size=job["max_side"] or 256,
        resize_only_if_bigger=True,
        thread_count=max(1, job["concurrency"] // processes),
        number_sample_per_shard=max(2, -(-len(job["urls"]) // shards)),
        timeout=60,
        **(_LEFT_OUT if job["is_bare"] else {}),
        **job["settings"],
    )
    print("Done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
