"""The sixty bad inputs that users meet, each made here by code, with the verdict it must get.

A verdict is a reject code, or "ok" with the notes that the accepted row must carry. Cases are numbered by kind: files
1-11, X-rays 12-21, CTs 22-46, reports and labels 47-60 (some of these are judged where they arise, in the evaluations).
"""

import ast
import csv
import gzip
import hashlib
import io
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
from nibabel import affines

from data import reasons
from data.build import pool
from data.checks import doctor
from data.manifest import samples
from data.manifest import source as manifest
from data.manifest.options import Options
from data.readers import dicom_decoders, geometry, image_statistics
from data.readers.volumes import Rules
from data.reports import sections, text, tokenizer
from data.source import Rejected
from tests import dicoms
from unimedi_jax.metrics import auroc, zeroshot

LPS = np.diag([-0.8, -0.7, 2.5, 1.0])
CASES: dict[str, tuple[Callable[[Path], Path], str, tuple[str, ...]]] = {}


def case(name: str, verdict: str, *notes: str):
    """Registers a maker of a file: `make(folder)` gives what the row's path names. X-rays are named `x...`."""

    def register(make):
        CASES[name] = (make, verdict, notes)
        return make

    return register


def film() -> np.ndarray:
    """A chest-like film (120, 100) uint8: dark lungs and corners, bright middle."""
    y, x = np.mgrid[-1:1:120j, -1:1:100j]
    body = 190 * np.exp(-((np.abs(x) / 0.75) ** 6)) - 130 * np.exp(
        -((((np.abs(x) - 0.42) / 0.25) ** 2 + (y / 0.6) ** 2) ** 2)
    )
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 30, x.shape), (0, 0), 2)
    return np.clip(body + noise + 20, 0, 255).astype(np.uint8)


def chest() -> np.ndarray:
    """HU int16 (x, y, z) = (40, 36, 24): air, an oval of tissue, two lungs, a spine; no symmetry."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 36, 24)), indexing="ij")
    hu = np.full(x.shape, -1000.0)
    hu[(x / 0.9) ** 2 + (y / 0.7) ** 2 < 1] = 40
    for side, wide in ((-0.4, 0.28), (0.42, 0.22)):
        hu[((x - side) / wide) ** 2 + (y / 0.5) ** 2 < 1] = -850
    hu[(np.abs(x) < 0.12) & (np.abs(y - 0.5) < 0.12)] = 700
    return (hu + np.random.default_rng(1).normal(0, 5, x.shape) + 20 * z).astype(np.int16)


def png(folder, pixels, name="x.png"):
    assert cv2.imwrite(str(folder / name), pixels)
    return folder / name


def pil(folder, picture, name="x.png", **settings):
    picture.save(folder / name, **settings)
    return folder / name


def nifti(folder, voxels=None, name="ct.nii", affine=LPS, kind=nibabel.Nifti1Image, **fields):
    nibabel.save(kind(chest() if voxels is None else voxels, affine), folder / name)
    if fields:  # in the file: nibabel would mend them
        data = bytearray((folder / name).read_bytes())
        header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(data), check=False)
        for field, value in fields.items():
            header[field] = value
        data[:348] = header.binaryblock
        (folder / name).write_bytes(data)
    return folder / name


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def dicom(path, pixels, **elements):
    data = dicoms.dataset(pixels, **elements)
    data.save_as(path, enforce_file_format=True)
    return path


def xray(folder, pixels=None, **elements):
    stored = (film().astype(int) * 16 if pixels is None else pixels).astype(np.uint16)
    return dicom(folder / "x.dcm", stored, **{"Modality": "DX", **elements})


def series(folder, change=lambda index: {}, stored=None):
    """A series of 24 slices; `change(index)` gives a slice's elements, None leaves it out."""
    stored = (chest() + 1024).astype(np.int16) if stored is None else stored
    (folder / "ct").mkdir()
    for at, index in enumerate(np.random.default_rng(2).permutation(stored.shape[2])):
        changes = change(int(index))
        if changes is None:
            continue
        elements = {
            "Modality": "CT",
            "SeriesInstanceUID": "1.2.3",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, 2.5 * int(index)],
            "PixelSpacing": [0.7, 0.8],
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "InstanceNumber": at + 1,
        }
        pixels = changes.pop("pixels", np.ascontiguousarray(stored[:, :, index].T))
        dicom(folder / "ct" / f"{at}.dcm", pixels, **{**elements, **changes})
    return folder / "ct"


# Files
case("1 truncated JPEG", "jpeg_truncated")(
    lambda f: rewrite(png(f, film(), "x.jpg"), lambda data: data[: len(data) // 2])
)
case("1 JPEG without its last two bytes", "jpeg_truncated")(
    lambda f: rewrite(png(f, film(), "x.jpg"), lambda d: d[:-2])
)
case("2 error page", "not_an_image")(lambda f: rewrite(png(f, film()), lambda _: b"<html><body>404</body></html>"))
case("2 LFS pointer", "lfs_pointer")(
    lambda f: rewrite(png(f, film()), lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
)
case("3 empty file", "empty_file")(lambda f: rewrite(png(f, film()), lambda _: b""))
case("4 webp named png", "ok", "wrong_extension")(lambda f: png(f, film(), "x.webp").rename(f / "x.png"))
case("5 PNG bomb", "too_large")(lambda f: pil(f, PIL.Image.new("1", (30000, 30000))))
case("5 NIfTI bomb", "too_large")(lambda f: nifti(f, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]))
BOMB = {"dim": [3, 2000, 2000, 500, 1, 1, 1, 1], "datatype": 64, "bitpix": 64}
case("5 gzip bomb", "too_large")(lambda f: rewrite(nifti(f, **BOMB), gzip.compress).rename(f / "ct.nii.gz"))
case("6 truncated gzip", "gzip_truncated")(
    lambda f: rewrite(nifti(f, name="ct.nii.gz"), lambda data: data[: len(data) // 2])
)
case("7 bit flip in gzip", "gzip_crc")(lambda f: rewrite(nifti(f, name="ct.nii.gz"), lambda d: flip(d, len(d) - 7)))
case("9 short NIfTI", "nifti_short")(lambda f: rewrite(nifti(f), lambda data: data[:-1000]))


@case("10 loop of links", "io_error")
def _loop(folder):
    (folder / "x.png").symlink_to(folder / "x.png")
    return folder / "x.png"


@case("10 folder named as a picture", "io_error")
def _folder(folder):
    (folder / "x.png").mkdir()
    return folder / "x.png"


case("10 odd name", "ok")(lambda f: png(f, film()).rename(f / "x ñ 胸\n film.png"))

# X-rays
case("12 twelve bits in a 16-bit PNG", "ok")(lambda f: png(f, film().astype(np.uint16) * 16))
case("13 equal channels", "ok")(lambda f: png(f, np.stack([film()] * 3, -1)))


@case("13 coloured marks", "ok", "colour")
def _marks(folder):
    colours = np.stack([film()] * 3, -1)
    colours[3:15, 3:20] = (0, 0, 250)
    return png(folder, colours)


case("13 colour map", "coloured")(lambda f: png(f, cv2.applyColorMap(film(), cv2.COLORMAP_JET)))
case("14 RGBA", "ok")(lambda f: png(f, np.dstack([*[film()] * 3, np.full((120, 100), 255, np.uint8)])))
case("14 palette", "ok")(lambda f: pil(f, PIL.Image.fromarray(film()).convert("P")))
case("14 one bit", "ok")(lambda f: pil(f, PIL.Image.fromarray(film()).convert("1")))
case("14 CMYK", "unsupported_colour")(lambda f: pil(f, PIL.Image.fromarray(film()).convert("CMYK"), "x.jpg"))
case("14 float TIFF", "ok")(lambda f: png(f, film().astype(np.float32) * 7.5, "x.tiff"))


@case("15 EXIF orientation", "ok", "exif_turned")
def _exif(folder):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return pil(folder, PIL.Image.fromarray(film()), "x.jpg", exif=exif)


case("16 MONOCHROME1", "ok")(lambda f: xray(f, 4080 - 16 * film().astype(int), PhotometricInterpretation="MONOCHROME1"))
case("16 exported without inversion", "ok", "maybe_inverted")(lambda f: png(f, 255 - film()))
case("17 no window", "ok")(xray)
case("17 two windows", "ok")(lambda f: xray(f, WindowCenter=[2000, 100], WindowWidth=[3000, 10]))
case("17 sigmoid", "ok")(lambda f: xray(f, WindowCenter=2000, WindowWidth=3000, VOILUTFunction="SIGMOID"))
case("18 constant", "constant_image")(lambda f: png(f, np.full((64, 64), 255, np.uint8)))
case("19 NaN", "nonfinite")(lambda f: png(f, np.where(film() > 200, np.nan, film()).astype(np.float32), "x.tiff"))
case("20 tiny", "too_small")(lambda f: png(f, film()[:8, :8]))
case("20 extreme aspect", "ok")(lambda f: png(f, cv2.resize(film(), (200, 3000))))
case("20 lateral", "ok", "lateral_view")(lambda f: xray(f, ViewPosition="LL"))
case("20 lateral decubitus", "ok")(lambda f: xray(f, ViewPosition="LLD"))
case("21 burned-in text", "ok", "burned_in")(lambda f: xray(f, BurnedInAnnotation="YES"))


# CTs
def at_the_22nd(brighter: int = 0) -> dict:
    """What makes a slice a copy of the 22nd, or another one at its place."""
    pixels = np.ascontiguousarray((chest()[:, :, 22].T + 1024 + brighter).astype(np.int16))
    return {"ImagePositionPatient": [0, 0, 2.5 * 22], "pixels": pixels}


NO_RESCALE = {"RescaleSlope": None, "RescaleIntercept": None}
case("22 no rescale", "no_rescale")(lambda f: series(f, lambda i: dict(NO_RESCALE)))
case("22 no rescale, but HU", "ok", "no_rescale_but_hu")(lambda f: series(f, lambda i: dict(NO_RESCALE), chest()))
case("22 one slice without", "no_rescale")(lambda f: series(f, lambda i: dict(NO_RESCALE) if i == 3 else {}))
case("23 double rescale", "double_rescale")(lambda f: nifti(f, (chest() - 1024).astype(np.int16)))
case("23 double rescale after a clip", "double_rescale")(
    lambda f: nifti(f, (np.clip(chest(), -990, 3000) - 1024).astype(np.int16))
)
case("24 raw without intercept", "not_hu")(lambda f: nifti(f, (chest() + 1024).astype(np.int16)))
case("24 air at 24", "not_hu")(lambda f: nifti(f, np.maximum(chest() + 1024, 24).astype(np.int16)))


def padded(value):
    voxels = chest().astype(np.int32)
    voxels[:5] = value
    return voxels


for value in (-2000, -2048, -3024, -9758):
    case(f"25 padding {value}", "ok")(lambda f, value=value: nifti(f, padded(value)))
case("26 metal", "ok", "metal_clipped")(lambda f: nifti(f, np.where(chest() > 650, 30000, chest()).astype(np.int16)))
case("27 NaN", "nonfinite")(lambda f: nifti(f, np.where(chest() > 650, np.nan, chest()).astype(np.float32)))
case("27 zeros", "constant_volume")(lambda f: nifti(f, np.zeros((40, 36, 24), np.int16)))
case("28 neither sform nor qform", "no_orientation")(lambda f: nifti(f, sform_code=0, qform_code=0))
case("29 sform against qform", "affine_conflict")(
    lambda f: nifti(f, qform_code=1, quatern_b=0, quatern_c=0, quatern_d=0)
)
for sizes in ([0, 0.7, 2.5], [-0.8, 0.7, 2.5]):
    case(f"30 pixdim {sizes}", "bad_spacing")(lambda f, sizes=sizes: nifti(f, pixdim=[1, *sizes, 0, 0, 0, 0]))
for size in (0.001, 500):
    case(f"30 voxels of {size} mm", "bad_spacing")(lambda f, size=size: nifti(f, affine=np.diag([-0.8, -0.7, size, 1])))
case("31 metres", "ok")(lambda f: nifti(f, affine=np.diag([-0.0008, -0.0007, 0.0025, 1]), xyzt_units=1))


def sheared(degrees):
    affine = LPS.copy()
    affine[1, 2] = 2.5 * np.tan(np.radians(degrees))
    return affine


case("32 gantry tilt of 20 degrees", "ok", "oblique_straightened")(lambda f: nifti(f, affine=sheared(20)))
case("32 shear of 45 degrees", "oblique")(lambda f: nifti(f, affine=sheared(45)))
case("33 missing slice", "uneven_slices")(lambda f: series(f, lambda i: None if i == 9 else {}))
case("33 localiser", "ok")(
    lambda f: series(f, lambda i: {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]} if i == 23 else {})
)
case("33 duplicate slice", "ok", "duplicate_slices")(lambda f: series(f, lambda i: at_the_22nd() if i == 23 else {}))
case("33 another slice at the same place", "slices_at_one_place")(
    lambda f: series(f, lambda i: at_the_22nd(1) if i == 23 else {})
)
case("33 slices that jump in their plane", "shifted_slices")(
    lambda f: series(f, lambda i: {"ImagePositionPatient": [40 * (i > 12), 0, 2.5 * i]})
)
case("33 two series", "mixed_series")(lambda f: series(f, lambda i: {"SeriesInstanceUID": f"1.2.{3 + i % 2}"}))
case("34 odd order", "ok")(lambda f: series(f, lambda i: {"InstanceNumber": (7 * i) % 24}))
case("35 three volumes", "not_3d")(lambda f: nifti(f, np.stack([chest()] * 3, -1)))
case("35 four dimensions, the last 1", "ok")(lambda f: nifti(f, chest()[..., None]))
case("35 five dimensions", "not_3d")(lambda f: nifti(f, np.stack([chest()] * 2, -1)[..., None, :]))
case("36 one slice", "too_few_slices")(lambda f: nifti(f, chest()[:, :, :1]))
FLIPPED = affines.from_matvec(np.diag([0.8, -0.7, 2.5]), [-31.2, 0, 0])
case("38 flipped", "ok")(lambda f: nifti(f, np.ascontiguousarray(chest()[::-1]), affine=FLIPPED))


@case("39 a head", "ok", "maybe_wrong_region")
def _head(folder):
    voxels = chest()
    voxels[(voxels > -950) & (voxels < -600)] = 30
    return nifti(folder, voxels)


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return affines.from_matvec(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ LPS[:3, :3])


case("40 oblique by 20 degrees", "ok", "oblique_straightened")(lambda f: nifti(f, affine=turned(20)))
case("41 float64", "ok")(lambda f: nifti(f, chest().astype(np.float64)))
case("41 slope 0", "ok")(lambda f: nifti(f, scl_slope=0.0))
case("41 slope NaN", "ok")(lambda f: nifti(f, scl_slope=np.nan))


@case("41 big-endian", "ok")
def _big_endian(folder):
    nibabel.save(nibabel.Nifti1Image(chest(), LPS, nibabel.Nifti1Header(endianness=">")), folder / "ct.nii")
    return folder / "ct.nii"


case("41 pair", "ok")(lambda f: nifti(f, name="ct.hdr", kind=nibabel.Nifti1Pair))
case("41 pair without its voxels", "missing_file")(
    lambda f: [path := nifti(f, name="ct.hdr", kind=nibabel.Nifti1Pair), path.with_suffix(".img").unlink()][0]
)
case("44 DICOM cut short", "dicom_truncated")(lambda f: rewrite(xray(f), lambda data: data[:-1000]))
case("45 no DICOM", "not_dicom")(lambda f: rewrite(xray(f), lambda data: b"junk" * 99))
case("46 frames of no place", "enhanced_unsupported")(
    lambda f: series(f, lambda i: {"NumberOfFrames": 2} if i == 0 else {})
)


def enhanced(folder, frames_a_place):
    data = dicoms.enhanced(
        np.ascontiguousarray(chest().T),
        [[0, 0, 2.5 * (index // frames_a_place)] for index in range(24)],
        shared={
            "PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.8]},
            "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
            "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0},
        },
    )
    data.save_as(folder / "ct.dcm", enforce_file_format=True)
    return folder / "ct.dcm"


def row(path, **fields):
    return {"path": path, "modality": "xray", "report": "There is a nodule in the left lung.", "patient": "7", **fields}


def read(folder, *rows, options=Options()):  # noqa: B008 (frozen)
    header = list(dict.fromkeys(name for one in rows for name in one))
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return manifest.read(folder / "rows.csv", options)


def verdict(source):
    """Code and notes of a source's only row, and its example."""
    result = source.rejected[0] if source.rejected else source.convert(source.rows[0])
    if isinstance(result, Rejected):
        assert "\n" not in result.reason
        return result.reason.partition(":")[0], (), None
    return "ok", tuple(result["notes"]), result


@pytest.mark.parametrize("name", CASES)
def test_files(tmp_path, name):
    make, expected, notes = CASES[name]
    path = make(tmp_path)
    modality = "xray" if path.name.startswith("x") else "ct"
    code, noted, example = verdict(read(tmp_path, row(path.name, modality=modality)))
    assert code == expected
    assert set(notes) <= set(noted) <= {*notes, "maybe_inverted", "maybe_wrong_region"}
    if "maybe" not in "".join(notes):
        assert noted == notes
    if example is not None:
        _check_record(example)


def _check_record(example):
    if "image" in example:
        assert (example["image"].shape, example["image"].dtype) == ((256, 256), np.uint8)
        assert example["image"].max() > example["image"].min()
    else:
        assert (example["volume"].shape, example["volume"].dtype) == ((32, 128, 128), np.int16)
        assert example["volume"].min() >= geometry.AIR_HU
        assert example["volume"].max() <= geometry.HIGHEST_HU
        assert (example["spacing_mm"] > 0).all()


def example_of(folder, path, **fields):
    return verdict(read(folder, row(path.name, **fields)))[2]


def test_8_a_bit_flip_is_found_by_the_manifest_s_hash(tmp_path):
    path = nifti(tmp_path)
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(path, lambda data: flip(data, 5000))
    assert verdict(read(tmp_path, row("ct.nii", modality="ct")))[0] == "ok"
    assert verdict(read(tmp_path, row("ct.nii", modality="ct", sha256=good)))[0] == "hash_mismatch"
    rewrite(path, lambda data: flip(data, 5000))
    assert verdict(read(tmp_path, row("ct.nii", modality="ct", sha256=good.upper())))[0] == "ok"
    assert verdict(read(tmp_path, row("ct.nii", modality="ct", sha256="abc")))[0] == "bad_hash"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_10_an_unreadable_file(tmp_path):
    png(tmp_path, film()).chmod(0)
    assert verdict(read(tmp_path, row("x.png")))[0] == "io_error"


def test_11_the_same_picture_twice_and_a_patient_in_two_splits(tmp_path):
    png(tmp_path, film(), "x1.png")
    png(tmp_path, film(), "x2.bmp")
    png(tmp_path, film().T, "x3.png")
    rows = [row("x1.png", patient="a", split="train"), row("x2.bmp", patient="b", split="test")]
    source = read(tmp_path, *rows)
    result = doctor.examine(source, pool.converter(source, 1), report_length=112)
    assert result["duplicates"] == result["duplicates_in_two_splits"] == [[1, 2]]
    leak = read(tmp_path, *rows, row("x3.png", patient="a", split="val"))
    assert [(one.row, one.reason.partition(":")[0]) for one in leak.rejected] == [
        (1, "leak_patient"),
        (3, "leak_patient"),
    ]


def test_12_to_16_depth_channels_and_inversion_change_nothing(tmp_path):
    expected = example_of(tmp_path, png(tmp_path, film()))["image"].astype(int)
    for name in ("13 equal channels", "14 RGBA", "14 palette"):
        (tmp_path / name).mkdir()
        np.testing.assert_array_equal(example_of(tmp_path / name, CASES[name][0](tmp_path / name))["image"], expected)
    # Percentiles stretch the deeper ones: alike up to a straight line.
    for name in ("12 twelve bits in a 16-bit PNG", "14 float TIFF", "16 MONOCHROME1", "17 no window"):
        (tmp_path / name).mkdir()
        got = example_of(tmp_path / name, CASES[name][0](tmp_path / name))["image"]
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.99


def test_25_padding_is_air_before_resampling(tmp_path):
    expected = example_of(tmp_path, nifti(tmp_path, padded(-1024)), modality="ct")["volume"]
    for value in (-2000, -9758):
        got = example_of(tmp_path, nifti(tmp_path, padded(value)), modality="ct")["volume"]
        np.testing.assert_array_equal(got, expected)


def test_28_axes_may_be_told(tmp_path):
    expected = example_of(tmp_path, nifti(tmp_path, affine=np.diag([-0.8, -0.7, 2.5, 1])), modality="ct")["volume"]
    nifti(tmp_path, sform_code=0, qform_code=0)
    assumed = read(tmp_path, row("ct.nii", modality="ct"), options=Options(scans=Rules(assume="LPS")))
    np.testing.assert_array_equal(verdict(assumed)[2]["volume"], expected)
    assumed = read(tmp_path, row("ct.nii", modality="ct"), options=Options(scans=Rules(assume="RPS")))
    np.testing.assert_allclose(verdict(assumed)[2]["volume"], expected[:, :, ::-1], atol=1)


def test_36_the_least_number_of_slices_is_a_setting(tmp_path):
    nifti(tmp_path, chest()[:, :, :7])
    assert verdict(read(tmp_path, row("ct.nii", modality="ct")))[0] == "ok"
    strict = Options(scans=Rules(min_slices=8))
    assert verdict(read(tmp_path, row("ct.nii", modality="ct"), options=strict))[0] == "too_few_slices"
    tall = series(tmp_path, lambda i: {} if i < 7 else None)
    assert verdict(read(tmp_path, row(tall.name, modality="ct"), options=strict))[0] == "too_few_slices"


def test_42_masks(tmp_path):
    nifti(tmp_path)
    fields = {"modality": "ct", "mask": "mask.nii"}
    mask = np.zeros((40, 36, 24), np.uint8)
    nifti(tmp_path, mask, "mask.nii")
    empty = verdict(read(tmp_path, row("ct.nii", **fields)))[2]
    assert not empty["lesion_mask"].any()
    mask[5:9, 5:9, 5:9] = 77  # whatever the number, a lesion of unstated kind
    nifti(tmp_path, mask, "mask.nii")
    got = verdict(read(tmp_path, row("ct.nii", **fields)))[2]["lesion_mask"]
    assert set(np.unique(got)) == {0, samples.LESION_OF_ANY_KIND}
    nifti(tmp_path, mask[:-1], "mask.nii")
    assert verdict(read(tmp_path, row("ct.nii", **fields)))[0] == "mask_geometry"
    nifti(tmp_path, mask * np.float32(0.01), "mask.nii")
    assert verdict(read(tmp_path, row("ct.nii", **fields)))[0] == "mask_values"


@pytest.mark.parametrize(
    "syntax", [pydicom.uid.JPEGLSLossless, pydicom.uid.HTJ2KLossless, pydicom.uid.JPEGExtended12Bit]
)
def test_43_a_missing_decoder_is_named(tmp_path, monkeypatch, syntax):
    path = xray(tmp_path)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 \xff\xd9"])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    if syntax != pydicom.uid.JPEGExtended12Bit:
        dicom_decoders.check(syntax)  # the requirements bring what these codings need
    monkeypatch.setattr(dicom_decoders, "get_decoder", lambda _: type("Absent", (), {"available_plugins": ()}))
    source = read(tmp_path, row("x.dcm"))
    reason = source.convert(source.rows[0]).reason
    assert reason.startswith("plugin_missing")
    assert syntax.name in reason
    assert "pip install -r requirements" in reason


def test_43_a_video_is_no_film(tmp_path):
    path = xray(tmp_path)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    data.PixelData = pydicom.encaps.encapsulate([b"video"])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    assert verdict(read(tmp_path, row("x.dcm")))[0] == "plugin_missing"


REPORTS = {
    "47 NaN": ("nan", "empty_report"),
    "47 blank": (" \t ", "empty_report"),
    "47 de-identified away": ("___ ___.", "empty_report"),
    "48 LFS pointer": ("version https://git-lfs.github.com/spec/v1 oid", "lfs_pointer"),
    "49 no headings": ("No effusion.", "ok"),
    "50 Spanish": ("No se observa derrame pleural en el pulmón.", "ok"),
    "51 very long": ("There is a nodule. " * 2000, "ok"),
    "52 one word of 20,000 letters": ("x" * 20000, "ok"),
    "52 emoji, NUL, entities": ("Lung \U0001f600 \x00 &lt;5 mm &amp; stable", "ok"),
    "54 priors and blanks": ("Unchanged since ___, 5 mm.", "ok"),
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports(tmp_path, name):
    report, expected = REPORTS[name]
    png(tmp_path, film())
    code, _, example = verdict(read(tmp_path, row("x.png", report=report)))
    assert code == expected
    if example is not None:
        assert example["report"] == text.clean(report)
        words = tokenizer.train(["a nodule in the lung", example["report"][:100]])
        assert len(words.encode(example["report"]).ids) >= 1


def test_49_sections():
    report = "INDICATION: cough. Findings : Clear lungs. No effusion. IMPRESSION: Normal. Impresión: Normal."
    assert sections.sections(report)["findings"] == "Clear lungs. No effusion."
    both, findings = (Options(sections=names).captions for names in (("impression", "findings"), ("findings",)))
    assert sections.select(report, both) == "Normal. Normal. Clear lungs. No effusion."
    assert sections.select("No effusion.", findings) == "No effusion."
    assert sections.select(report, Options().captions) == report


def test_50_languages(tmp_path):
    png(tmp_path, film(), "x1.png")
    png(tmp_path, film().T, "x2.png")
    spanish = "No se observa derrame pleural en el hemitórax izquierdo."
    mixed = "There is no effusion in the left lung. No se observa derrame en el lado de la silueta."
    assert [text.language(t) for t in (spanish, mixed, "Clear.", "The lungs are clear.")] == [
        "es",
        "mixed",
        "unknown",
        "en",
    ]
    rows = [row("x1.png", report=spanish), row("x2.png", report=mixed)]
    assert not read(tmp_path, *rows).rejected
    english = read(tmp_path, *rows, options=Options(language="en"))
    assert [one.reason.partition(":")[0] for one in english.rejected] == ["wrong_language"]


def test_51_long_reports_are_counted_and_cut(tmp_path):
    words = tokenizer.train(["there is a nodule in the left lung ."])
    tokenizer.save(words, tmp_path)
    ids, mask = tokenizer.encode(tokenizer.load(tmp_path), ["nodule " * 5000], 112)
    assert ids.shape == (1, 112)
    assert mask.all()
    facts = doctor.report_facts([(1, "nodule " * 500), (2, "nodule")], [], 112, 0)
    assert facts["longer_than_limit"] == 1


def test_52_entities_end_in_a_semicolon():
    """HTML takes some names without one, too: dictation writes them as words."""
    written = "RT&LT lobes, RT<LT, PA&LAT, A&P; H&P&notes, 3&times larger, PICC&copy, Edema&para-aortic, L&GT R"
    assert text.clean(written) == written
    assert (
        text.clean("&#233;&#xe9;&eacute; 5 mm&lt;stable &amp;lt; &notit;")
        == "\u00e9\u00e9\u00e9 5 mm<stable &lt; &notit;"
    )


def test_52_characters():
    assert text.clean("A\u0301 \x00b\r\nc &lt;5&nbsp;mm\ufeff") == "Á b c <5 mm"


def test_53_templates_are_counted():
    facts = doctor.report_facts([(n, "Normal chest." if n < 5 else f"Nodule {n}.") for n in range(8)], [], 112, 0)
    assert (facts["repeated_texts"], facts["rows_with_repeated_text"]) == (1, 5)
    assert facts["most_repeated"] == [{"times": 5, "rows": [0, 1, 2, 3, 4]}]


def test_55_tables(tmp_path):
    png(tmp_path, film())
    (tmp_path / "rows.csv").write_bytes(
        b'\xef\xbb\xbfpath;modality;report;patient\r\nx.png;xray;"Two\r\nlines; ""quoted""";1\r\nnone.png;xray;a;2\r\n'
        b"x.png;xray;b;1\r\n"
    )
    source = manifest.read(tmp_path / "rows.csv")
    assert source.convert(source.rows[0])["report"] == 'Two lines; "quoted"'
    assert [one.reason.partition(":")[0] for one in source.rejected] == ["missing_image", "duplicate_path"]


@pytest.mark.parametrize(("uncertain", "value"), [("ignore", np.nan), ("zeros", 0.0), ("ones", 1.0)])
def test_57_labels(tmp_path, uncertain, value):
    png(tmp_path, film())
    fields = {"Label: Nodule": "-1", "label:effusion": "", "LABEL:mass": "1.0"}
    source = read(tmp_path, row("x.png", **fields), options=Options(uncertain=uncertain))
    assert source.labels == ("Nodule", "effusion", "mass")
    np.testing.assert_array_equal(source.convert(source.rows[0])["labels"], np.array([value, np.nan, 1], np.float32))
    assert source.contract["uncertain_becomes"] == uncertain
    assert read(tmp_path, row("x.png", **{"label:a": "2"})).rejected[0].reason.startswith("bad_label")


def test_58_a_class_that_is_absent_is_nan_and_left_out_of_the_mean():
    rng = np.random.default_rng(0)
    labels = np.stack([rng.random(40) < 0.5, np.zeros(40)], 1).astype(float)
    result = auroc.per_label(rng.random((40, 2)), labels)
    scalars = result.scalars(["seen", "absent"])
    assert np.isnan(scalars["absent"])
    assert scalars["macro"] == scalars["seen"]


def test_59_swapped_prompts_fall_below_chance():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 1)) < 0.5).astype(float)
    z = np.concatenate([labels * 2 - 1, rng.normal(size=(60, 3))], 1)
    positive, negative = [np.array([[1.0, 0, 0, 0]])], [np.array([[-1.0, 0, 0, 0]])]
    assert zeroshot.auc(z, positive, negative, labels, score="difference").scalars(["a"])["macro"] > 0.6
    assert (
        zeroshot.auc(z, negative, positive, labels, score="difference").scalars(["a"])["macro"] < 0.4
    )  # the page's limit of its warning


def test_every_number_is_here_or_named_elsewhere():
    """Batches of one modality (60) are the objective's tests; there is no translator (56)."""
    names = [name.split("_")[1] for name in globals() if name.startswith("test_") and name.split("_")[1].isdigit()]
    here = {int(name.split()[0]) for name in (*CASES, *REPORTS)} | set(map(int, names))
    assert set(range(1, 61)) - here == {56, 60}


def test_37_a_tall_scan_is_never_all_floats():
    """1,500 slices: what resampling allocates beside the scan stays below a tenth of it."""
    scan = np.zeros((1500, 96, 96), np.int16)
    scan[700:] = -1000
    weights, _ = geometry.canonical_weights(scan.shape, (0.2, 0.7, 0.7))
    tracemalloc.start()
    small = geometry.resample(scan, weights)
    peak = tracemalloc.get_traced_memory()[1] - small.nbytes
    tracemalloc.stop()
    assert peak < 0.1 * scan.nbytes * 2
    assert small.min() == pytest.approx(-1000)


def test_every_code_has_its_line_in_the_documented_table():
    """docs/reasons.md is the table of the code, and the table has the codes that the code uses."""
    root = Path(__file__).parents[2]
    used, noted = set(), set()
    for path in (root / "data").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                (used if name == "BadInput" else noted if name == "note" else set()).add(node.args[0].value)
    used |= {
        "reader_crashed",
        "missing_image",
        "missing_mask",
        "duplicate_row",
        "duplicate_path",
        "leak_patient",
        "other_modality",
        "no_translation",
        "unreadable",
    }  # passed on as names
    noted |= set(image_statistics.suspicions({"film/corners_over_middle": 255.0, "ct/lung_share": 0.0}))
    assert used == set(reasons.REJECTED)
    assert noted == set(reasons.NOTES)
    assert reasons.markdown() in (root / "docs" / "reasons.md").read_text(encoding="utf-8")
