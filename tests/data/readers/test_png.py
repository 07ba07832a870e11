import io
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from data.readers import pictures, png
from data.readers.files import BadInput

GREYS = np.random.default_rng(0).integers(0, 60000, (48, 40)).astype(np.uint16)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encoded(**settings) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(GREYS).save(stream, "PNG", **settings)
    return stream.getvalue()


def turned() -> bytes:
    exif = PIL.Image.Exif()
    exif[pictures.EXIF_TURN] = 6
    return exif.tobytes().removeprefix(b"Exif\0\0")


def test_the_png_of_any_writer_is_plain_and_not_decoded_for_its_header(monkeypatch):
    for data in (encoded(), encoded(compress_level=0), cv2.imencode(".png", GREYS)[1].tobytes()):
        assert png.is_plain(data)
        assert png.is_plain(data + b"more")
        with monkeypatch.context() as patch:
            patch.setattr(PIL.Image.Image, "load", lambda self: pytest.fail("Pillow decodes"))
            np.testing.assert_array_equal(pictures.decode(data)[0], GREYS)


@pytest.mark.parametrize("at", ["before", "behind"])
def test_an_orientation_is_applied_wherever_it_stands(at):
    data = encoded()
    place = data.index(b"IDAT" if at == "before" else b"IEND") - 4
    data = data[:place] + chunk(b"eXIf", turned()) + data[place:]
    assert png.is_plain(data) == (at == "before")
    picture = pictures.decode(data)
    assert picture.turn == 6
    np.testing.assert_array_equal(picture.pixels, np.rot90(GREYS, -1))


def test_every_cut_and_every_changed_byte_is_seen():
    data = encoded()
    assert not any(png.is_plain(data[:end]) for end in range(len(data)))
    for at in range(len(png.SIGNATURE), len(data), 97):
        assert not png.is_plain(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(BadInput):
        pictures.decode(data[:-600])
