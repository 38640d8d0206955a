"""The frames that `decoder_pool` and `decoder_process` exchange over a pipe.

A frame is a header of fixed size, a JSON object and a body of raw bytes. Owns their layout
and the checks of it; nothing is ever unpickled, and no length is believed before it is held
against a limit. Reading and writing pipes is the two sides' own business.
"""

from __future__ import annotations

import json
import struct
from typing import Any

_HEADER = struct.Struct(">4sIQ")  # magic, bytes of JSON, bytes of body
_MAGIC = b"img1"
_MAX_MESSAGE_BYTES = 64 * 1024
HEADER_BYTES = _HEADER.size
MOST_IMAGES = 2000  # that one process may be asked for


class ProtocolError(Exception):
    """What came is no frame."""


def pack(message: dict[str, Any], body_bytes: int) -> bytes:
    """Return header and JSON; the body is to follow, uncopied."""
    text = json.dumps(message).encode()
    return _HEADER.pack(_MAGIC, len(text), body_bytes) + text


def unpack_header(header: bytes, max_body_bytes: int) -> tuple[int, int]:
    """Return the number of bytes of the JSON and of the body. Raises ProtocolError."""
    magic, message_bytes, body_bytes = _HEADER.unpack(header)
    if magic != _MAGIC or message_bytes > _MAX_MESSAGE_BYTES or body_bytes > max_body_bytes:
        raise ProtocolError("bad header")
    return message_bytes, body_bytes


def unpack_message(text: bytes) -> dict[str, Any]:
    """Return the JSON object. Raises ProtocolError."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("bad JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("no object")
    return message
