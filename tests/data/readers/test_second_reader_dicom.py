"""Generated DICOM series and films against SimpleITK (GDCM), highdicom and Pillow: the same picture, or a refusal."""

import io
import tempfile
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import PIL.Image
import PIL.ImageOps
import pydicom
import pytest
import SimpleITK
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from data.readers import dicom_series, xrays
from data.readers.files import BadInput
from tests import dicoms
from tests.data.readers import headers
from tests.data.readers.headers import directions, generated, origins, scans, spacings


def decimal(value):
    """A number as DICOM writes it, in at most 16 characters."""
    return f"{round(value, 8):.9g}"


@st.composite
def series(draw):
    """One dataset a slice of a scan, (row, column, slice) directions, and what was done to them."""
    hu = draw(scans()).astype(np.int32)
    matrix, sizes = draw(directions()), draw(spacings())
    along_row, along_column = matrix[:, 0], matrix[:, 1]
    normal = np.cross(along_row, along_column) * draw(st.sampled_from((1.0, -1.0)))
    origin = np.array(draw(origins()))
    slope, shift = draw(st.sampled_from(((1, -1024), (2, -1024), (0.5, 0), (1, 0))))
    signed = draw(st.booleans()) or shift == 0
    stored = np.clip(np.rint((hu - shift) / slope), -32768 if signed else 0, 32767 if signed else 65535)
    change = draw(st.sampled_from(("",) * 6 + ("jump", "copy", "other", "gap", "unit", "modality", "spacing", "tilt")))
    at = draw(st.integers(1, hu.shape[2] - 1))
    out = []
    for index in range(hu.shape[2]):
        place = origin + normal * sizes[2] * index
        if change == "jump" and index >= at:
            place = place + along_row * 40
        if change == "tilt":
            place = place + along_column * 0.2 * index
        if change == "gap" and index >= at and at > 1:
            place = place + normal * sizes[2]
        elements = {
            "SOPInstanceUID": f"1.2.3.{index + 1}",
            "SeriesInstanceUID": "1.2.3",
            "StudyInstanceUID": "1.2",
            "FrameOfReferenceUID": "1.2.9",
            "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImageOrientationPatient": [decimal(v) for v in (*along_row, *along_column)],
            "ImagePositionPatient": [decimal(v) for v in place],
            "InstanceNumber": draw(st.integers(1, 5)),
            "PixelSpacing": [sizes[1], sizes[0]],
            "RescaleSlope": slope,
            "RescaleIntercept": shift,
        }
        if change == "unit":
            elements["ImageOrientationPatient"] = [decimal(2 * v) for v in (*along_row, *along_column)]
        if change == "modality" and index == at:
            elements["ModalityLUTSequence"] = [pydicom.Dataset()]
        if change == "spacing" and index == at:
            elements["PixelSpacing"] = [sizes[1] * 1.2, sizes[0]]
        pixels = np.ascontiguousarray(stored[:, :, index].T.astype(np.int16 if signed else np.uint16))
        out.append(dicoms.dataset(pixels, **elements))
        if change in ("copy", "other") and index == at:
            again = pixels if change == "copy" else np.roll(pixels, 1)
            out.append(dicoms.dataset(again, **{**elements, "SOPInstanceUID": "1.2.3.99"}))
    return out, change, draw(st.randoms(use_true_random=False))


@generated
@hypothesis.given(series())
def test_series(case):
    datasets, change, order = case
    names = list(range(len(datasets)))
    order.shuffle(names)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for at, data in zip(names, datasets, strict=True):
            data.save_as(folder / f"{at}.dcm", enforce_file_format=True)
        scan = headers.ours(folder)
        refused = change in ("jump", "other", "gap", "unit", "modality", "spacing") and not (change == "gap" and scan)
        assert (scan is None) or not refused, change
        hypothesis.event(f"{change or 'plain'}: {'refused' if scan is None else 'read'}")
        if scan is None or change in (
            "tilt",
            "gap",
        ):  # GDCM's series has no shear; a gap behind the first slice is none
            return
        highdicom = pytest.importorskip("highdicom", reason="pip install --no-deps -r requirements-judges.txt")
        # One slice a position, as highdicom sorts them: GDCM would take copies for further slices.
        places, seen = [data.ImagePositionPatient for data in datasets], []
        files = []
        for at, place in sorted(zip(names, places, strict=True), key=lambda pair: tuple(map(float, pair[1]))):
            if place not in seen:
                seen.append(place)
                files.append(str(folder / f"{at}.dcm"))
        orientation = [float(v) for v in datasets[0].ImageOrientationPatient]
        gap, volume_places = highdicom.spatial.get_series_volume_positions(
            [pydicom.dcmread(file) for file in files], rtol=0.05
        )
        assert gap is not None
        files = [file for _, file in sorted(zip(volume_places, files, strict=True))]
        judge = SimpleITK.ReadImage(files)
        affine = dicom_series.read(folder).affine
        step = np.linalg.norm(affine[:3, 2])
        np.testing.assert_allclose(step, gap, rtol=1e-4)
        np.testing.assert_allclose(affine[:3, 0] / np.linalg.norm(affine[:3, 0]), orientation[:3], atol=1e-6)
        headers.same_scan(scan, judge)


@st.composite
def films(draw):
    """One film with a drawn way to show it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stored = draw(st.integers(8, 16))
    noise = cv2.GaussianBlur(rng.normal(size=(40, 36)), (0, 0), 3)
    full = (1 << stored) - 1
    pixels = cv2.normalize(noise, None, 0, full, cv2.NORM_MINMAX).astype(np.uint16)
    elements = {"BitsStored": stored, "HighBit": stored - 1, "Modality": draw(st.sampled_from(("DX", "CR")))}
    elements["PhotometricInterpretation"] = draw(st.sampled_from(("MONOCHROME1", "MONOCHROME2")))
    if draw(st.booleans()):
        elements |= {"RescaleSlope": draw(st.sampled_from((1, 2, 0.5))), "RescaleIntercept": draw(st.integers(-99, 99))}
    slope, shift = float(elements.get("RescaleSlope", 1)), float(elements.get("RescaleIntercept", 0))
    kind = draw(st.sampled_from(("window", "exact", "sigmoid", "table", "none")))
    if kind == "table":
        bits = draw(st.sampled_from((10, 12, 16)))
        entries = np.rint(np.linspace(0, 1, 1 << min(stored, 12)) ** draw(st.floats(0.5, 2)) * ((1 << bits) - 1))
        item = pydicom.Dataset()
        item.add_new("LUTDescriptor", "US", [len(entries) % 65536, draw(st.integers(0, 9)), bits])
        item.add_new("LUTData", "US", entries.astype(int).tolist())
        elements["VOILUTSequence"] = [item]
    elif kind != "none":
        elements["WindowCenter"] = round((draw(st.floats(0.3, 0.7)) * full) * slope + shift, 1)
        elements["WindowWidth"] = round(max(2, draw(st.floats(0.3, 1.5)) * full * slope), 1)
        elements["VOILUTFunction"] = {"window": "LINEAR", "exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}[kind]
    syntax = draw(st.sampled_from(("", pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless)))
    if stored == 8:  # pydicom's own encoder leaves half of each word out
        syntax = ""
    return pixels, elements, kind, syntax


@generated
@hypothesis.given(films())
def test_films(case):
    """Against pydicom's own tables and windows, whose output is scaled to 8 bits here."""
    pixels, elements, kind, syntax = case
    data = dicoms.dataset(pixels, **elements)
    if syntax:
        data.compress(syntax)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dcm"
        path.write_bytes(stream.getvalue())
        notes = []
        got = xrays.read_full_xray(path, notes.append)
    judge = pydicom.dcmread(io.BytesIO(stream.getvalue()))
    values = apply_modality_lut(judge.pixel_array, judge)
    ignored = "window_ignored" in notes
    hypothesis.event(f"{kind}{', passed over' if ignored else ''}")
    if kind == "none" or ignored:
        low, high = np.percentile(np.float32(values), (0.5, 99.5))
        shown = np.clip((values - low) / (high - low), 0, 1)
    elif kind == "table":
        top = (1 << int(judge.VOILUTSequence[0].LUTDescriptor[2])) - 1
        shown = apply_voi_lut(values.astype(np.int32), judge) / top
    else:
        slope, shift = float(judge.get("RescaleSlope", 1)), float(judge.get("RescaleIntercept", 0))
        low, high = shift, ((1 << judge.BitsStored) - 1) * slope + shift  # pydicom's range of its output
        shown = (apply_voi_lut(values, judge) - low) / (high - low)
    expected = np.rint(np.clip(shown, 0, 1) * 255)
    if judge.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    assert np.abs(got - expected).max() <= 1


@st.composite
def pictures(draw):
    """The bytes of a picture file and its suffix."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = (draw(st.integers(32, 60)), draw(st.integers(32, 60)))
    grey = cv2.normalize(cv2.GaussianBlur(rng.normal(size=size), (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    mode = draw(st.sampled_from(("L", "RGB", "RGBA", "LA", "P", "I;16", "1")))
    suffix = draw(st.sampled_from(("png",) if mode in ("LA", "I;16") else ("png", "jpg", "tiff", "bmp", "webp")))
    if suffix in ("jpg", "webp") and mode not in ("L", "RGB"):
        mode = "L"
    if suffix == "bmp" and mode == "RGBA":
        mode = "RGB"
    if mode == "I;16":
        picture = PIL.Image.fromarray((grey * 200).astype(np.uint16))
    else:
        picture = PIL.Image.fromarray(grey.astype(np.uint8)).convert(mode)
    settings = {}
    if draw(st.booleans()) and suffix != "webp":
        across = draw(st.integers(50, 300))
        settings["dpi"] = (across, draw(st.sampled_from((across, across * 2, across * 3 // 2))))
    if draw(st.booleans()) and suffix in ("png", "jpg", "webp"):
        exif = PIL.Image.Exif()
        exif[0x0112] = draw(st.integers(0, 9))
        settings["exif"] = exif
    stream = io.BytesIO()
    quality = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    picture.save(stream, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **quality, **settings)
    return stream.getvalue(), suffix


@generated
@hypothesis.given(pictures())
def test_pictures(case):
    """Against Pillow: its pixels, turned and stretched by what it reads in the header."""
    data, suffix = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        path.write_bytes(data)
        try:
            got = xrays.read_full_xray(path)
        except BadInput as error:
            hypothesis.event(error.code)
            return
    with PIL.Image.open(io.BytesIO(data)) as picture:
        across, down = map(float, picture.info.get("dpi", (1, 1)))
        upright = PIL.ImageOps.exif_transpose(picture)
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    aspect = (across / down) ** (-1 if turned else 1)
    deep = upright.mode.startswith("I")
    if deep:
        values = np.array(upright).astype(np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        grey = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    else:
        grey = np.array(
            upright.convert("RGBA").convert("RGB").convert("L") if upright.mode != "1" else upright.convert("L")
        )
    if abs(aspect - 1) > 0.01:
        size = (round(grey.shape[1] * max(1, 1 / aspect)), round(grey.shape[0] * max(1, aspect)))
        assert got.shape[::-1] == size
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
    hypothesis.event(f"{suffix} {upright.mode} {'oblong' if abs(aspect - 1) > 0.01 else 'square'}")
    assert got.shape == grey.shape
    assert np.abs(got.astype(int) - grey).max() <= 2
