"""An origin as a process: `python -m tests.chaos.slow_origin HOST IMAGES DELAY`.

Prints its `host:port`; serves /1.jpg, /2.jpg, … until its standard input ends.
"""

from __future__ import annotations

import sys

from tests.images import photo, saved
from tests.origin import Origin


def main() -> None:
    """Serve so many images, each after a delay of so many seconds."""
    host, images, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    base = photo(160, 120)
    with Origin(host=host) as origin:
        for n in range(1, images + 1):
            image = base.crop((0, 0, 60 + n % 100, 40 + n % 80))
            origin.serve(f"/{n}.jpg", saved(image, "JPEG", quality=95), delay=delay)
        sys.stdout.write(f"{origin.authority}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
