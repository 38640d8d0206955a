"""Decodes a JPEG of several scans, and notices when the last of them is cut short.

A decoder that comes upon the end of the file early takes what it has for the picture: a scan
without its end only lacks detail, or a colour. Pillow can't be asked whether that happened, but
it tells how many bytes it has taken. Behind a whole scan libjpeg passes over any byte at once,
looking for a marker; within one it gives bytes back that don't make up a block yet.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from PIL import Image, ImageFile

from codec.container_structure import cut_short

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODEC = "jpeg_scans"
_END = b"\xff\xd9"
_FILLER = b"\xfe"  # a code of ones is a long one, or none
_LOOKAHEAD_BYTES = 16  # without it the last block of a whole scan isn't finished with
_WATCHED_BYTES = 256  # a code may stand for many blocks without a detail, which take no bytes
_RESTARTS = [b"\xff%c" % code for code in range(0xD0, 0xD8)]  # what a scan with restarts waits for
_WATCHED_BYTES_AFTER_RESTART = 24  # libjpeg takes up to eight at a time: three times as many


def watch(image: Image.Image) -> None:
    """Have a JPEG of Huffman codes, opened but not loaded, raise `truncated` when it is loaded.

    Its file has to end with EOI.
    """
    if isinstance(image, ImageFile.ImageFile):
        image.tile = [tile._replace(codec_name=_CODEC) for tile in image.tile]


def _trial() -> Iterator[bytes]:
    """Yield what is fed behind the last scan; every single byte has to be taken at once."""
    yield _FILLER * _LOOKAHEAD_BYTES
    yield from repeat(_FILLER, _WATCHED_BYTES)
    for restart in _RESTARTS:
        yield restart
        yield from repeat(_FILLER, _WATCHED_BYTES_AFTER_RESTART)


class _Decoder(ImageFile.PyDecoder):
    """Pillow's decoder of JPEG, fed up to the end of the last scan before it gets the rest."""

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:  # noqa: ARG002  it reads `fd`
        if self.fd is None or self.im is None:
            raise ValueError(_CODEC)
        data = self.fd.read().removesuffix(_END)
        decoder = Image._getdecoder(self.mode, "jpeg", self.args)  # noqa: SLF001  it has no other
        decoder.setimage(self.im, self.state.extents())
        rest = b""
        for piece in (data, *_trial()):
            rest += piece
            taken, error = decoder.decode(rest)
            if taken < 0:
                return taken, error
            rest = rest[taken:]
            if piece == _FILLER and rest:
                raise cut_short()
        return decoder.decode(rest + _END)


Image.register_decoder(_CODEC, _Decoder)
