"""Walks the chunks of a PNG: whether it is whole, and whether all that is said of it stands before its pixels."""

from isal import isal_zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ANNOTATIONS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # what may hold an EXIF orientation


def is_plain(data: bytes) -> bool:
    """Whether every chunk has its length and its checksum, the last is the end, and none behind pixels is annotation.

    Pillow decodes all pixels of a PNG to look for annotations behind them; a plain one need not be decoded for that.
    """
    if not data.startswith(SIGNATURE):
        return False
    view, at, pixels = memoryview(data), len(SIGNATURE), False
    while at + 12 <= len(data):
        length, kind = int.from_bytes(view[at : at + 4]), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if isal_zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4]):
            return False
        if kind == b"IEND":
            return pixels and end + 4 <= len(data)
        pixels = pixels or kind == b"IDAT"
        if pixels and kind in ANNOTATIONS:
            return False
        at = end + 4
    return False
