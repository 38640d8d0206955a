"""Frames between the service and its decoders are checked before they are believed."""

from __future__ import annotations

import struct

import pytest

from decoder.decoder_protocol import (
    HEADER_BYTES,
    ProtocolError,
    pack,
    unpack_header,
    unpack_message,
)


def test_what_is_packed_can_be_unpacked() -> None:
    """Header, message and the length of the body come through."""
    frame = pack({"width": 7}, 1 << 33)
    message_bytes, body_bytes = unpack_header(frame[:HEADER_BYTES], 1 << 33)
    assert body_bytes == 1 << 33
    assert len(frame) == HEADER_BYTES + message_bytes
    assert unpack_message(frame[HEADER_BYTES:]) == {"width": 7}


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">4sIQ", b"nope", 2, 0),
        struct.pack(">4sIQ", b"img1", 1 << 20, 0),
        struct.pack(">4sIQ", b"img1", 2, 101),
    ],
)
def test_refuses_headers_that_ask_for_too_much(header: bytes) -> None:
    """No memory is set aside for a length that is not plausible."""
    with pytest.raises(ProtocolError):
        unpack_header(header, 100)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 60_000])
def test_refuses_what_is_no_object(text: bytes) -> None:
    """Broken, too deep, or something else in JSON."""
    with pytest.raises(ProtocolError):
        unpack_message(text)
