"""What this process counts meanwhile: the growth of metrics over a block."""

from __future__ import annotations

from typing import Self

import metrics


class Counting:
    """`with Counting() as counted: …`; then `counted.by` is what grew in the block, and by how much.

    By the sample's name without our prefix, and the values of its labels.
    """

    def __enter__(self) -> Self:
        self._before = _samples()
        return self

    def __exit__(self, *_: object) -> None:
        self.by = {
            key: value - self._before.get(key, 0)
            for key, value in _samples().items()
            if value != self._before.get(key, 0)
        }


def _samples() -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix(metrics.PREFIX), *sample.labels.values()): sample.value
        for family in metrics._registry.collect()
        if family.type == "counter" and family.name.startswith(metrics.PREFIX)
        for sample in family.samples
    }
