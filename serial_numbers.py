"""Which serial numbers a CSV has twice, found in memory that no number of rows changes.

Owns the table that tells where two serial numbers may be equal; comparing those, in a second
pass over the file, is `csv_validator`'s business.
"""

from __future__ import annotations

import mmap
import secrets
from hashlib import blake2b

_MAX_INT_DIGITS = 18  # what int() takes at the speed of one machine word
_SLOTS_PER_ROW = 16  # a million serial numbers drawn at random share 30,000 slots
_MIN_SLOTS = 1 << 20


def is_whole_number(serial: str) -> bool:
    """Tell whether the text is one or more ASCII digits."""
    return serial.isascii() and serial.isdigit()


def value_of(serial: str) -> int:
    """Return a number that two serial numbers share only when their values are equal.

    Long ones are hashed: int() is quadratic, and refuses more than 4,300 digits.
    """
    if len(serial) > _MAX_INT_DIGITS:
        serial = serial.lstrip("0") or "0"
        if len(serial) > _MAX_INT_DIGITS:
            return int.from_bytes(blake2b(serial.encode(), digest_size=32).digest())
    return int(serial)


class SerialNumbers:
    """A hash table of one byte a slot: serial numbers that share a slot may be equal.

    The modulus is random, so that nobody can make up numbers which all share one slot, and odd,
    so that round numbers don't. Its size follows from the most rows that there may be.
    """

    def __init__(self, max_rows: int) -> None:
        slots = max(_MIN_SLOTS, _SLOTS_PER_ROW * max_rows)
        self._modulus = (slots + secrets.randbelow(_MIN_SLOTS)) | 1
        # Unlike a bytearray's, its pages are handed out when they are first written.
        self._slots = mmap.mmap(-1, self._modulus)
        self.shared = 0  # how many slots are

    def add(self, value: int) -> None:
        """Take a serial number, as `value_of` gives it."""
        slots, slot = self._slots, value % self._modulus
        taken = slots[slot]
        if not taken:
            slots[slot] = 1
        elif taken == 1:
            slots[slot] = 2
            self.shared += 1

    def is_shared(self, value: int, turn: int, turns: int) -> bool:
        """Tell whether another serial number has the same slot, and this is the slot's turn."""
        slot = value % self._modulus
        return slot % turns == turn and self._slots[slot] == 2
