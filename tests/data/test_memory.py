"""The memory that the largest scans need: the bound that volumes.read_ct states, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from tests import dicoms

SHAPE = (512, 512, 128)
VOXELS = 512 * 512 * 128
SLACK = 100 << 20
PEAK = """
import pathlib, sys
from data.readers import volumes
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) << 10
volumes.read_volume(pathlib.Path(sys.argv[1]))  # a small scan: what every scan loads once is no scan's
before = peak()
volumes.read_volume(pathlib.Path(sys.argv[2]))
print(peak() - before)
"""

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


@pytest.mark.parametrize(("name", "bytes_a_voxel"), [(".nii.gz", 2), (".nii", 2), ("dicom", 2), (".nrrd", 2 + 2)])
def test_peak_memory_of_a_large_ct(tmp_path, name, bytes_a_voxel):
    paths = [save(name, tmp_path / size, planes) for size, planes in (("small", 5), ("large", SHAPE[2]))]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], check=True, capture_output=True, text=True)
    assert VOXELS < int(done.stdout) < bytes_a_voxel * VOXELS + SLACK
