"""One thorax, saved in eight formats (and as enhanced CT) and all 48 orders of axes, is one record."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel import affines, orientations

from data.phantom import source as phantom
from data.readers import volumes
from tests import dicoms

FORMATS = ("ct.nii", "ct.nii.gz", "ct.hdr", "ct.mha", "ct.mhd", "ct.nrrd", "ct.nhdr", "dicom", "ct.dcm")
ORDERS = [
    np.stack([order, flips], 1)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
SPACING = (3.0, 2.5, 2.0)  # along Left, Posterior, Superior


@pytest.fixture(scope="module")
def thorax():
    """A phantom's CT, cut so that its sides differ: a NIfTI with axes that grow to Left, Posterior, Superior."""
    source = phantom.source(xrays=0, cts=1, seed=3)
    volume = source.convert(source.rows[0])["volume"]
    hu = np.ascontiguousarray(volume[2:26:2, 10:110:4, 8:120:4].transpose(2, 1, 0))
    return nibabel.Nifti1Image(hu, affines.from_matvec(np.diag([-SPACING[0], -SPACING[1], SPACING[2]]), [9, 8, -70]))


@pytest.fixture(scope="module")
def record(thorax, tmp_path_factory):
    return volumes.read_volume(_save(thorax, "ct.nii", tmp_path_factory.mktemp("plain")))


def _save(image, name, folder):
    """Writes a NIfTI image, whatever its axes, in the format that a name stands for."""
    voxels = np.ascontiguousarray(image.dataobj)
    path = folder / name
    if name.startswith("ct.nii"):
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    elif name == "ct.hdr":
        nibabel.save(nibabel.Nifti1Pair(voxels, image.affine), path)
    else:
        lps = np.diag([-1, -1, 1, 1]) @ image.affine
        sizes = affines.voxel_sizes(lps)
        if name == "dicom":
            path.mkdir()
            _series(path, voxels, lps, sizes)
        elif name == "ct.dcm":
            _enhanced(voxels, lps, sizes).save_as(path, enforce_file_format=True)
        else:
            picture = SimpleITK.GetImageFromArray(voxels.transpose(2, 1, 0))
            picture.SetSpacing(sizes)
            picture.SetOrigin(lps[:3, 3])
            picture.SetDirection((lps[:3, :3] / sizes).ravel())
            SimpleITK.WriteImage(picture, str(path), useCompression=name.endswith(("a", "rrd")))
    return path


def _series(folder, voxels, lps, sizes):
    for index in range(voxels.shape[2]):
        directions = lps[:3, :3] / sizes
        data = dicoms.dataset(
            np.ascontiguousarray(voxels[:, :, index].T),
            Modality="CT",
            SOPInstanceUID=f"1.2.{index + 1}",
            SeriesInstanceUID="1.2",
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            RescaleSlope=1,
            RescaleIntercept=0,
            ImageOrientationPatient=[*directions[:, 0], *directions[:, 1]],
            ImagePositionPatient=list(affines.apply_affine(lps, [0, 0, index])),
            PixelSpacing=[sizes[1], sizes[0]],
        )
        data.save_as(folder / f"{index}.dcm", enforce_file_format=True)


def _enhanced(voxels, lps, sizes):
    directions = lps[:3, :3] / sizes
    places = [affines.apply_affine(lps, [0, 0, index]) for index in range(voxels.shape[2])]
    shared = {
        "PixelMeasuresSequence": {"PixelSpacing": [sizes[1], sizes[0]]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [*directions[:, 0], *directions[:, 1]]},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0},
    }
    return dicoms.enhanced(np.ascontiguousarray(voxels.T), places, shared=shared)


def _agrees(path, record):
    volume, spacing = volumes.read_volume(path)
    np.testing.assert_allclose(volume, record[0], atol=1)  # HU, by rounding
    np.testing.assert_allclose(spacing, record[1], rtol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_all_orders_of_axes(thorax, record, tmp_path, name):
    """DICOM too: a slice is right-handed, but the slices of a series may go either way."""
    orders = set()
    for turn, order in enumerate(ORDERS):
        folder = tmp_path / str(turn)
        folder.mkdir()
        turned = thorax.as_reoriented(order)
        orders.add(orientations.aff2axcodes(turned.affine))
        _agrees(_save(turned, name, folder), record)
    assert len(orders) == 48
