"""Which bits of a DICOM word are the pixel: against a slow twin that works on the digits of one word at a time."""

import io

import hypothesis
import numpy as np
import pydicom
import pytest
from hypothesis import strategies as st

from data.readers import dicom_bits, dicom_pixels, dicom_tags
from data.readers.files import BadInput
from tests import dicoms
from tests.data.readers.headers import generated


def twin(word, allocated, stored, high, *, signed):
    """The value of one word by PS3.5 8.1.1, from its binary digits."""
    digits = f"{word:0{allocated}b}"[allocated - 1 - high : allocated - high - 1 + stored]
    value = int(digits, 2)
    return value - (1 << stored) if signed and digits[0] == "1" else value


def outside(word, allocated, stored, high):
    """The digits above and below the value."""
    digits = f"{word:0{allocated}b}"
    return digits[: allocated - 1 - high], digits[allocated - high - 1 + stored :]


@st.composite
def words(draw):
    """(dataset, words of its 32 x 32 pixels as plain numbers, stored, high, signed)."""
    allocated = draw(st.sampled_from((8, 16, 16, 16)))
    stored = draw(st.integers(max(1, allocated // 2), allocated))
    high = draw(st.integers(stored - 1, allocated - 1))
    signed = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(0, 1 << stored, 1024)
    fill = draw(st.sampled_from(("zero", "sign", "overlay", "one stray", "whole words")))
    plain = values << (high + 1 - stored)
    top = ((1 << allocated) - 1) & ~((1 << (high + 1)) - 1)
    overlays = []
    if fill == "sign":
        plain = np.where(values >> (stored - 1), plain | top, plain)
    elif fill == "overlay" and allocated > stored:
        free = [bit for bit in range(allocated) if bit > high or bit < high + 1 - stored]
        overlays = draw(st.lists(st.sampled_from(free), min_size=1, max_size=2, unique=True))
        for bit in overlays:
            plain = plain | (rng.integers(0, 2, 1024) << bit)
    elif fill == "one stray":
        plain[draw(st.integers(0, 1023))] ^= 1 << draw(st.integers(0, allocated - 1))
    elif fill == "whole words":
        plain = rng.integers(0, 1 << allocated, 1024)
    big = draw(st.booleans()) and allocated == 16
    data = dicoms.dataset(
        np.zeros((32, 32), np.uint16),
        BitsAllocated=allocated,
        BitsStored=stored,
        HighBit=high,
        PixelRepresentation=int(signed),
        PixelData=plain.astype(f"{'>' if big else '<'}u{allocated // 8}").tobytes(),
    )
    data["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for number, bit in enumerate(overlays):
        data.add_new((0x6000 + 2 * number, 0x0100), "US", allocated)
        data.add_new((0x6000 + 2 * number, 0x0102), "US", bit)
    syntaxes = [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian]
    syntax = pydicom.uid.ExplicitVRBigEndian if big else draw(st.sampled_from(syntaxes))
    data.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    data.save_as(
        stream, enforce_file_format=True, little_endian=syntax.is_little_endian, implicit_vr=syntax.is_implicit_VR
    )
    return stream.getvalue(), [int(word) for word in plain], (allocated, stored, high), signed, set(overlays)


def is_clean(numbers, bits, overlays, *, signed):
    """Whether the digits beside the values are zero, the sign throughout, or an overlay."""
    allocated, stored, high = bits
    own = {*range(high + 1 - stored, high + 1)}
    free = [bit for bit in range(allocated) if bit not in own and bit not in overlays]
    zero = all(not (word >> bit) & 1 for word in numbers for bit in free)
    below = [bit for bit in free if bit <= high]
    extended = signed and all(
        all((word >> bit) & 1 == ((word >> high) & 1 if bit not in below else 0) for bit in free) for word in numbers
    )
    return zero or extended


@generated
@hypothesis.given(words())
def test_values_are_those_of_the_twin_or_refused(case):
    data, numbers, bits, signed, overlays = case
    clean = is_clean(numbers, bits, overlays, signed=signed)
    dataset = dicom_tags.read(data, pixels=True)
    hypothesis.event(f"read: {clean}")
    if not clean:
        with pytest.raises(BadInput, match="bits_conflict"):
            dicom_pixels.decode(dataset)
        return
    got = dicom_pixels.decode(dataset).ravel()
    assert got.tolist() == [twin(word, *bits, signed=signed) for word in numbers]


@pytest.mark.parametrize("syntax", [pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_values_in_the_upper_bits_of_compressed_words(syntax, signed):
    values = np.random.default_rng(0).integers(-2048 * signed, 4096 - 2048 * signed, (40, 32))
    words_ = (values << 4).astype(np.int16 if signed else np.uint16)
    data = dicoms.dataset(words_, BitsStored=16, HighBit=15)  # as whole words
    data.compress(syntax)
    data.BitsStored = 12
    assert (dicom_pixels.decode(data) == values).all()


def test_a_stream_wider_or_with_another_sign_than_its_header_is_refused():
    values = np.random.default_rng(0).integers(0, 60000, (40, 32)).astype(np.uint16)
    data = dicoms.dataset(values)
    data.compress(pydicom.uid.JPEG2000Lossless)
    assert (dicom_pixels.decode(data) == values).all()
    for changes in ({"BitsStored": 12, "HighBit": 11}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}):
        narrow = pydicom.dcmread(io.BytesIO(saved(data)))
        for name, value in changes.items():
            setattr(narrow, name, value)
        with pytest.raises(BadInput, match="bits_conflict"):
            dicom_pixels.decode(narrow)
    signed = dicoms.dataset((values // 2 - 9000).astype(np.int16))
    signed.compress(pydicom.uid.JPEG2000Lossless)
    signed.PixelRepresentation = 0
    with pytest.raises(BadInput, match="bits_conflict"):
        dicom_pixels.decode(signed)


def saved(data):
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize(("number", "limit"), [(-2000, None), (63536, None), (-2000, -1990), (63536, 63546)])
def test_padding_is_known_with_and_without_its_sign(number, limit):
    stored = np.array([[-2000, -1995, -1990, 5]], np.int16)
    header = pydicom.Dataset()
    header.add_new("PixelPaddingValue", "SS" if number < 0 else "US", number)
    if limit is not None:
        header.add_new("PixelPaddingRangeLimit", "SS" if limit < 0 else "US", limit)
    expected = [True, limit is not None, limit is not None, False]
    assert dicom_bits.padding(stored, header).ravel().tolist() == expected
