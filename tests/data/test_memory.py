"""The memory that the largest scans need: the bound that volumes.read_ct states, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import cv2
import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from data.readers import dicom_film, greys, payload, pictures
from tests import dicoms

SHAPE = (512, 512, 128)
VOXELS = 512 * 512 * 128
SLACK = 100 << 20
PEAK = """
import pathlib, sys
from data.readers import memory, volumes, xrays
{more}memory.LIMIT.set(100)
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) << 10
{read}(pathlib.Path(sys.argv[1]))  # a small one: what is loaded once belongs to none of them
before = peak()
{read}(pathlib.Path(sys.argv[2]))
print(peak() - before)
assert before < memory.LIBRARIES, before
"""
SIDES = (3000, 2500)  # of a large film

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")


def scan(planes: int) -> np.ndarray:
    """Air with a body in it, (512, 512, planes) int16, which packs well."""
    hu = np.full((*SHAPE[:2], planes), -1000, np.int16)
    hu[100:400, 150:380] = 40
    return hu


def save(name: str, path: Path, planes: int) -> Path:
    hu = scan(planes)
    if name == "dicom":
        path.mkdir()
        for index in range(planes):
            data = dicoms.dataset(
                np.ascontiguousarray(hu[..., index].T),
                Modality="CT",
                SOPInstanceUID=f"1.2.{index + 1}",
                SeriesInstanceUID="1.2",
                ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
                RescaleSlope=1,
                RescaleIntercept=0,
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[0.7, 0.7],
                ImagePositionPatient=[0, 0, index],
            )
            data.save_as(path / f"{index}.dcm", enforce_file_format=True)
        return path
    path = path.with_name(path.name + name)
    if name == ".nrrd":
        image = SimpleITK.GetImageFromArray(hu.transpose(2, 1, 0))
        SimpleITK.WriteImage(image, str(path), useCompression=False)
        return path
    image = nibabel.Nifti1Image(hu, np.diag([-0.7, -0.7, 1, 1]))
    image.header.set_slope_inter(0.5, 12)  # read as floats
    nibabel.save(image, path)
    return path


def peak(read: str, *paths: Path, more: str = "") -> int:
    """Bytes that reading the second file takes, in a process of its own that has read the first."""
    command = [sys.executable, "-c", PEAK.format(read=read, more=more), *map(str, paths)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("name", [".nii.gz", ".nii", "dicom", ".nrrd"])
def test_peak_memory_of_a_large_ct(tmp_path, name):
    paths = [save(name, tmp_path / size, planes) for size, planes in (("small", 5), ("large", SHAPE[2]))]
    used = peak("volumes.read_volume", *paths)
    assert VOXELS < used < 2 * VOXELS + SLACK
    assert used < payload.volume_bytes(SHAPE)  # by which a scan is refused before it is read


def film(name: str, path: Path, shape: tuple[int, int]) -> Path:
    """A picture of a kind that takes much memory for its size."""
    grey = (np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1]) * 2) % 251).astype(np.uint8)
    if name == "film.dcm":
        rescale = {"RescaleSlope": 1, "RescaleIntercept": 0, "PixelPaddingValue": 7}
        window = {"WindowCenter": 20000, "WindowWidth": 40000, "VOILUTFunction": "SIGMOID"}
        data = dicoms.dataset(grey.astype(np.uint16) * 200, Modality="DX", **rescale, **window)
        data.save_as(path / name, enforce_file_format=True)
    elif name == "film.jpg":
        tinted = np.dstack([grey, grey, grey // 2 + 60])
        PIL.Image.fromarray(tinted).save(path / name, progressive=True, subsampling=0)
    else:
        cv2.imwrite(str(path / name), np.dstack([grey, grey, grey // 2 + 60]).astype(np.uint16) * 200)
    return path / name


@pytest.mark.parametrize("name", ["film.dcm", "film.jpg", "film.png"])
def test_peak_memory_of_a_large_film(tmp_path, name):
    paths = []
    for folder, shape in (("small", (64, 64)), ("large", SIDES)):
        (tmp_path / folder).mkdir()
        paths.append(film(name, tmp_path / folder, shape))
    used, pixels = peak("xrays.read_xray", *paths), SIDES[0] * SIDES[1]
    data = paths[1].read_bytes()
    kind = {"film.png": "PNG", "film.jpg": "JPEG"}.get(name)
    most = pictures.bytes_a_pixel(data, kind, "RGB") if kind else dicom_film.BYTES_A_PIXEL
    assert used < len(data) * 2 + pixels * most + greys.WORK  # by which a film is refused before it is decoded
