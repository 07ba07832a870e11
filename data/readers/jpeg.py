"""Reads the markers of a JPEG, JPEG-LS or JPEG 2000 stream: its size, its samples, whether it has an end."""

import dataclasses

END_OF_IMAGE = b"\xff\xd9"  # the last marker of JPEG, JPEG-LS and JPEG 2000 alike
J2K_START = b"\xff\x4f\xff\x51"
START_OF_SCAN = 0xDA
# Start-of-frame markers: C0-CF without the tables C4, C8, CC; F7 of JPEG-LS.
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


@dataclasses.dataclass(frozen=True)
class Stream:
    """What the markers say; `height` and `width` are 0 where no marker holds them."""

    height: int
    width: int
    ended: bool
    precision: int = 0  # bits of a sample
    signed: bool = False


def stream_facts(data: bytes) -> Stream:
    """The facts of a stream that starts with a JPEG marker; damage gives zeros and `ended` False, never an error."""
    if data.startswith(J2K_START):
        # SIZ: length, capabilities, then the sizes and the offsets of the image on its grid.
        width, height, left, top = (int.from_bytes(data[at : at + 4]) for at in (8, 12, 16, 20))
        ended, depth = data.rstrip(b"\0").endswith(END_OF_IMAGE), int.from_bytes(data[42:43])
        return Stream(height - top, width - left, ended, (depth & 0x7F) + 1, depth > 0x7F)
    height = width = precision = 0
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker in FRAMES:
            precision, height, width = data[at + 4], *(int.from_bytes(data[at + n : at + n + 2]) for n in (5, 7))
        if marker == START_OF_SCAN:
            # Within a scan this pair of bytes has no other meaning; thumbnails are in the segments before it.
            return Stream(height, width, data.find(END_OF_IMAGE, at) > 0, precision)
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return Stream(height, width, False, precision)
