import gzip
import io
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel import affines, orientations

from data import record_grid
from data.readers import ct_records, volumes
from data.readers.files import BadInput

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data" / "real_ct"
needs_real = pytest.mark.skipif(not SHARED.exists(), reason="no real CTs beside the project (../shared/data)")
LPS = np.diag([-0.8, -0.7, 2.5, 1.0])  # NIfTI's millimetres count toward Right and Anterior


@pytest.fixture(scope="module")
def hu():
    """A smooth scan (x, y, z) = (40, 36, 24) of HU without symmetry."""
    noise = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(0, 4000, (24, 36, 40)))
    smooth = SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(noise, 2.0))
    return np.clip(smooth * 2 - 300, -1000, 1500).astype(np.int16).transpose(2, 1, 0)


@pytest.fixture
def save(tmp_path):
    """`save(voxels, name="ct.nii", affine=LPS, **header)`: writes a NIfTI and gives its path."""

    def write(voxels, name="ct.nii", affine=LPS, **header):
        image = nibabel.Nifti1Image(voxels, affine)
        for field, value in header.items():
            image.header[field] = value
        nibabel.save(image, tmp_path / name)
        return tmp_path / name

    return write


def patch_header(path, **fields):
    """Changes fields of a NIfTI header in the file: nibabel would mend them."""
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(data), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    path.write_bytes(data)
    return path


def masked(path, mask_path, value):
    """Volume, spacing and mask on the default grid."""
    fields = ct_records.read_with_mask(path, ct_records.MaskFile(mask_path, "mask", value), record_grid.DEFAULT)
    mask = fields["mask"]
    return fields["volume"], fields["spacing_mm"], mask


def code_of(path):
    with pytest.raises(BadInput) as caught:
        volumes.read_volume(path)
    return caught.value.code


def test_all_48_axis_orders_give_the_same_record(hu, save):
    expected, spacing = volumes.read_volume(save(hu))
    base = nibabel.Nifti1Image(hu, LPS)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = base.as_reoriented(np.stack([order, flips], 1))
            got, got_spacing = volumes.read_volume(save(np.ascontiguousarray(turned.dataobj), affine=turned.affine))
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(got_spacing, spacing)
    codes = set(orientations.aff2axcodes(base.affine))
    assert codes == {"L", "P", "S"}


def test_axes_are_superior_posterior_left(save):
    left_back_top = np.full((64, 64, 32), -900, np.int16)
    left_back_top[40:, 50:, 20:] = 700  # x grows to Left, y to Posterior with this affine
    got, spacing = volumes.read_volume(save(left_back_top, affine=np.diag([-1.0, -1.0, 2.0, 1.0])))
    assert (got[21:, 102:, 82:] > 600).all()
    assert (got[:19] < -800).all()
    assert (got[:, :98] < -800).all()
    assert (got[:, :, :78] < -800).all()
    np.testing.assert_allclose(spacing, [2, 0.5, 0.5])


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii"])
def test_slope_intercept_and_types(hu, save, name):
    expected, _ = volumes.read_volume(save(hu))
    raw = (hu.astype(np.int32) + 1024).astype(np.uint16)
    path = save(raw, "raw.nii")
    patch_header(path, scl_slope=1.0, scl_inter=-1024.0)
    np.testing.assert_array_equal(volumes.read_volume(path)[0], expected)
    np.testing.assert_array_equal(volumes.read_volume(save(hu.astype(np.float64), name))[0], expected)
    np.testing.assert_array_equal(volumes.read_volume(save(hu[..., None], name))[0], expected)
    swapped = nibabel.Nifti1Image(hu, LPS, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(swapped, path)
    np.testing.assert_array_equal(volumes.read_volume(path)[0], expected)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_no_slope_is_slope_one(hu, save, slope):
    path = save(hu)
    expected, _ = volumes.read_volume(path)
    np.testing.assert_array_equal(volumes.read_volume(patch_header(path, scl_slope=slope))[0], expected)


def test_metres_and_microns(hu, save):
    _, expected = volumes.read_volume(save(hu))
    for unit, scale in ((1, 0.001), (3, 1000.0)):
        affine = np.diag([*(np.diag(LPS)[:3] * scale), 1.0])
        path = patch_header(save(hu, affine=affine), xyzt_units=unit)
        np.testing.assert_allclose(volumes.read_volume(path)[1], expected, rtol=1e-5)


def test_padding_and_metal_are_clipped_before_resampling(hu, save):
    worse, clipped = hu.copy(), hu.copy()
    worse[:6], clipped[:6] = -9758, -1024
    worse[20, 20, 10], clipped[20, 20, 10] = 30000, 3071
    np.testing.assert_array_equal(volumes.read_volume(save(worse))[0], volumes.read_volume(save(clipped, "b.nii"))[0])


def test_qform_alone_is_believed(hu, save, tmp_path):
    expected, _ = volumes.read_volume(save(hu))
    image, path = nibabel.Nifti1Image(hu, LPS), tmp_path / "q.nii"
    image.set_qform(LPS, code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, path)
    np.testing.assert_array_equal(volumes.read_volume(path)[0], expected)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"pixdim": [1, 0, 0.7, 2.5, 0, 0, 0, 0]}, "bad_spacing"),
        ({"pixdim": [1, -0.8, 0.7, 2.5, 0, 0, 0, 0]}, "bad_spacing"),
        ({"pixdim": [1, np.nan, 0.7, 2.5, 0, 0, 0, 0]}, "bad_spacing"),
        ({"pixdim": [1, 3.0, 0.7, 2.5, 0, 0, 0, 0]}, "affine_conflict"),
        ({"sform_code": 0, "qform_code": 0}, "no_orientation"),
        ({"qform_code": 1, "quatern_b": 0, "quatern_c": 0, "quatern_d": 0}, "affine_conflict"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "bad_affine"),
        ({"xyzt_units": 5}, "bad_spacing"),
        ({"magic": b"ni1"}, "not_nifti"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "too_large"),
        ({"dim": [4, 40, 36, 12, 2, 1, 1, 1]}, "not_3d"),
        ({"dim": [3, 40, 36, 25, 1, 1, 1, 1]}, "nifti_short"),
        ({"datatype": 128, "bitpix": 24}, "not_scalar"),
        ({"datatype": 7}, "nifti_header"),
    ],
)
def test_headers_that_are_refused(hu, save, fields, code):
    assert code_of(patch_header(save(hu), **fields)) == code


def test_absurd_voxels_are_refused(hu, save):
    assert code_of(save(hu, affine=np.diag([-0.001, -0.7, 2.5, 1]))) == "bad_spacing"
    assert code_of(save(hu, affine=np.diag([-0.8, -0.7, 500, 1]))) == "bad_spacing"


def test_numbers_that_are_no_hounsfield_units(hu, save):
    assert code_of(save((hu + 1024).astype(np.int16))) == "not_hu"
    assert code_of(save(np.full_like(hu, -1000))) == "constant_volume"
    low = np.where(hu < 0, hu // 4 - 2000, hu).astype(np.int16)
    assert np.mean(low < -1500) > 0.5
    assert code_of(save(low)) == "double_rescale"
    broken = hu.astype(np.float32)
    broken[3, 3, 3] = np.nan
    assert code_of(save(broken)) == "nonfinite"
    assert code_of(save(hu[:, :, :1])) == "too_few_slices"
    assert volumes.read_volume(save(hu[:, :, :7]))[0].shape == (32, 128, 128)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_gzip(hu, save, tmp_path, share):
    data = save(hu, "a.nii.gz").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(data[: int(len(data) * share)])
    assert code_of(tmp_path / "b.nii.gz") == "gzip_truncated"


def test_a_damaged_gzip(hu, save):
    path = save(hu, "a.nii.gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the checksum: the voxels are right, but nothing says so
    path.write_bytes(data)
    assert code_of(path) == "gzip_crc"
    path.write_bytes(b"not gzip at all" * 99)
    assert code_of(path) == "not_gzip"


def test_two_gzip_members_are_one_file(hu, save, tmp_path):
    data = save(hu).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data[:9000]) + gzip.compress(data[9000:]))
    np.testing.assert_array_equal(*(volumes.read_volume(tmp_path / n)[0] for n in ("ct.nii", "b.nii.gz")))


def itk_image(hu, affine=LPS):
    image = SimpleITK.GetImageFromArray(hu.transpose(2, 1, 0))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sizes = affines.voxel_sizes(lps)
    image.SetSpacing(sizes)
    image.SetOrigin(lps[:3, 3])
    image.SetDirection((lps[:3, :3] / sizes).ravel())
    return image


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["ct.mha", "ct.mhd", "ct.nrrd", "ct.nhdr"])
def test_metaimage_and_nrrd_give_nifti_s_record(hu, save, tmp_path, name, packed):
    expected = volumes.read_volume(save(hu))
    SimpleITK.WriteImage(itk_image(hu), str(tmp_path / name), useCompression=packed)
    for got, want in zip(volumes.read_volume(tmp_path / name), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["ct.mha", "ct.nrrd"])
def test_metaimage_and_nrrd_cut_short(hu, tmp_path, name, packed):
    path = tmp_path / name
    SimpleITK.WriteImage(itk_image(hu), str(path), useCompression=packed)
    path.write_bytes(path.read_bytes()[:-200])
    assert code_of(path) in ("truncated", "gzip_truncated")


@pytest.mark.parametrize("named", [".hdr", ".img"])
def test_the_other_half_of_a_pair_is_no_link_out_of_its_folder(hu, tmp_path, named):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    nibabel.save(nibabel.Nifti1Pair(hu, LPS), folder / "ct.hdr")
    path, other = (folder / f"ct{suffix}" for suffix in (named, {".hdr": ".img", ".img": ".hdr"}[named]))
    volumes.read_ct(path)
    other.rename(elsewhere / other.name)
    other.symlink_to(elsewhere / other.name)
    assert code_of(path) == "path_outside"
    other.unlink()
    assert code_of(path) == "missing_file"


@pytest.mark.parametrize(("name", "field"), [("ct.mhd", "ElementDataFile = "), ("ct.nhdr", "data file: ")])
def test_a_header_may_not_lead_out_of_its_folder(hu, tmp_path, name, field):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    SimpleITK.WriteImage(itk_image(hu), str(path))
    (data,) = (p for p in path.parent.iterdir() if p != path)
    data.rename(tmp_path / data.name)
    text = path.read_text()
    for there in (f"../{data.name}", str(tmp_path / data.name)):
        path.write_text(text.replace(field + data.name, field + there))
        SimpleITK.ReadImage(str(path))  # the library follows it
        assert code_of(path) == "path_outside"
    path.write_text(text)
    data.symlink_to(tmp_path / data.name)
    assert code_of(path) == "path_outside"
    data.unlink()
    assert code_of(path) == "missing_file"


def test_nrrd_without_space_has_no_orientation(hu, tmp_path):
    path = tmp_path / "ct.nrrd"
    SimpleITK.WriteImage(itk_image(hu), str(path))
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior\n", b""))
    assert code_of(path) == "no_orientation"


def test_a_tilted_scan_and_its_straight_twin(save):
    """A ball that both scans see lies at the same place in both records."""
    affine = affines.from_matvec(affines.voxel_sizes(LPS) * np.eye(3))
    turn = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    centres = []
    for directions in (np.eye(3), turn):
        lps = affines.from_matvec(directions @ affine[:3, :3])
        shape = (60, 70, 30)
        lps[:3, 3] = -lps[:3, :3] @ (np.array(shape) - 1) / 2
        places = affines.apply_affine(lps, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
        ball = np.where(np.linalg.norm(places - [8, -9, 10], axis=-1) < 8, 500, -800).astype(np.int16)
        volume, spacing = volumes.read_volume(save(ball, affine=np.diag([-1, -1, 1, 1]) @ lps))
        where = np.argwhere(volume > 0).mean(0) - (np.array(volume.shape) - 1) / 2
        centres.append(where * spacing)
    np.testing.assert_allclose(centres[0], [10, -9, 8], atol=1.5)
    np.testing.assert_allclose(*centres, atol=1.5)


def test_a_scan_too_far_off_the_axes_is_refused(hu, save):
    c = np.sqrt(0.5)
    turn = np.array([[1, 0, 0], [0, c, -c], [0, c, c]])
    assert code_of(save(hu, affine=affines.from_matvec(turn @ LPS[:3, :3]))) == "oblique"


def test_mask_and_scan_in_other_axis_orders(hu, save):
    mask = np.zeros(hu.shape, np.uint8)
    mask[25:35, 5:15, 8:20] = 1
    flipped = nibabel.Nifti1Image(mask, LPS).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    mask_path = save(np.ascontiguousarray(flipped.dataobj), "mask.nii.gz", flipped.affine)
    volume, spacing, small = masked(save(hu), mask_path, 254)
    alone, _ = volumes.read_volume(save(hu))
    np.testing.assert_array_equal(volume, alone)
    share = np.prod([10 * 0.8, 10 * 0.7, 12 * 2.5]) / spacing.prod()
    assert (small == 254).sum() == pytest.approx(share, rel=0.1)
    z, _, x = (axis.mean() for axis in np.nonzero(small))
    assert z > 16
    assert x > 64


def test_a_mask_of_another_grid_is_refused(hu, save):
    mask = np.ones(hu.shape, np.uint8)
    for other in (
        save(mask[:-1], "a.nii"),
        save(mask, "b.nii", affine=LPS + np.diag([0, 0, 0.1, 0])),
        save(mask, "c.nii", affine=affines.from_matvec(LPS[:3, :3], [5, 0, 0])),
    ):
        with pytest.raises(BadInput, match="mask_geometry"):
            masked(save(hu), other, 1)
    with pytest.raises(BadInput, match="mask_values"):
        masked(save(hu), save(mask * np.float32(0.5), "d.nii"), 1)


@needs_real
def test_one_real_ct_as_nrrd_and_as_dicom():
    nrrd = volumes.read_ct(SHARED / "cip-ct64" / "ct.nrrd")
    dicom = volumes.read_ct(SHARED / "cip-ct64" / "dicom")
    np.testing.assert_array_equal(nrrd.voxels, dicom.voxels)
    np.testing.assert_allclose(nrrd.affine, dicom.affine, atol=1e-3)


@needs_real
def test_a_real_dicom_series_against_simpleitk():
    folder = SHARED / "Lung_Dx-A0002" / "dicom"
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    judge = SimpleITK.DICOMOrient(SimpleITK.ReadImage(names), "LPS")
    scan = volumes.read_ct(folder)
    expected = np.clip(SimpleITK.GetArrayFromImage(judge), -1024, 3071)
    np.testing.assert_array_equal(scan.voxels.transpose(2, 1, 0), expected)
    np.testing.assert_allclose(affines.voxel_sizes(scan.affine), judge.GetSpacing(), rtol=1e-4)
