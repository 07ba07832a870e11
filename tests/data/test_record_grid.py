"""The grid of a set: what may be asked for, what its contract says, and that the default is what it always was."""

import hashlib
import json
import re

import cv2
import nibabel
import numpy as np
import pytest

from configs import build as build_config
from data import job, record_grid
from data.build import contracts, pool
from data.errors import UserError
from data.manifest import source as manifest
from data.phantom import source as phantom
from data.record_grid import RecordGrid
from unimedi_jax.input import records


def digest(example):
    """A hash of all fields, types and shapes of an example."""
    content = hashlib.sha256()
    for name, value in sorted(example.items()):
        array = np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else np.asarray(value)
        content.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return content.hexdigest()[:16]


def test_the_default_contract_and_fingerprint_are_those_of_earlier_sets():
    """The hashes were made by the version before sets had a grid; entities of reports were read more freely then."""
    rules = json.dumps(contracts.rules()).replace("HTML entities with their semicolon read", "HTML entities read")
    assert hashlib.sha256(rules.encode()).hexdigest()[:16] == "16d72574bee9002a"
    assert contracts.fingerprint(phantom.source(xrays=2, cts=2))[:16] == "c2c89b010b38d921"


def test_default_records_are_those_of_earlier_versions(tmp_path):
    """Sizes whose means are exact in float32 on any machine; the hashes were made by the version before."""
    rng = np.random.default_rng(0)
    scan = np.kron(rng.integers(-1000, 1500, (16, 16, 8)), np.ones((16, 16, 8))).astype(np.int16)
    mask = (rng.random(scan.shape) < 0.5).astype(np.uint8)
    film = np.kron(rng.integers(0, 256, (64, 64)), np.ones((8, 8))).astype(np.uint8)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "ct.nii")
    nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "mask.nii")
    cv2.imwrite(str(tmp_path / "film.png"), film)
    cv2.imwrite(str(tmp_path / "film_mask.png"), (film > 200).astype(np.uint8) * 255)
    rows = ["path,modality,report,patient,split,mask", "ct.nii,ct,one,1,train,mask.nii"]
    (tmp_path / "own.csv").write_text("\n".join([*rows, "film.png,xray,two,2,train,film_mask.png\n"]))
    source = manifest.read(tmp_path / "own.csv")
    ct, xray = (source.convert(row) for row in source.rows)
    ct.pop("notes"), xray.pop("notes")
    ct.pop("id"), xray.pop("id")
    assert (digest(ct), digest(xray)) == ("b1d7ec4714c64a78", "b55f63ea6d9db2d2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"film_size": 500}, "config.film_size is 500: a multiple of 32, at most 2048"),
        ({"film_size": 4096}, "config.film_size"),
        ({"volume": (64, 192)}, "config.volume is"),
        ({"volume": (2048, 2048, 2048)}, "config.volume is"),
        ({"spacing_mm": (2.0, 2.0)}, "config.spacing_mm is"),
        ({"spacing_mm": (0.01, 2.0, 2.0)}, "config.spacing_mm is"),
        ({"spacing_mm": (2.0, 1.0, 2.0)}, "y and x are alike"),
        ({"spacing_mm": (2.0, 2.0, 2.0), "volume": (64, 192, 192)}, "give one of them"),
        ({"crop_to": "heart"}, "config.crop_to is 'heart'"),
    ],
)
def test_what_no_record_can_have_is_one_line(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        RecordGrid(**settings)


@pytest.mark.parametrize(
    "grid",
    [record_grid.DEFAULT, RecordGrid(512, (64, 192, 128)), RecordGrid(spacing_mm=(2.0, 1.5, 1.5), crop_to="body")],
)
def test_a_contract_gives_its_grid_back(grid):
    contract = json.loads(json.dumps({"records": contracts.rules(grid=grid)}))
    assert record_grid.of_contract(contract) == grid
    assert contract["records"]["xray"]["image"] == [grid.film_size] * 2
    assert str(grid.film_size) in contract["records"]["xray"]["rules"]["resize"]
    assert ("crop_to" in contract["records"]["ct"]) == bool(grid.crop_to)


@pytest.mark.parametrize("change", [{"xray": {"image": [256, 128]}}, {"ct": {"volume": [None, 4, 4]}}, {"ct": 3}])
def test_a_stranger_s_contract_of_other_sizes_is_refused(change):
    with pytest.raises(UserError, match="sizes that no records have"):
        record_grid.of_contract({"records": change})


def build(tmp_path, **settings):
    config = build_config.get_config("phantom")
    values = {"data_dir": str(tmp_path), "workers": 1, "xrays": 10, "cts": 10} | settings
    config.update(values)
    job.run(config, tmp_path / "work")
    return records.open_set(tmp_path, config.name)


def test_a_finer_phantom_is_built_and_read_back(tmp_path):
    made = build(tmp_path, film_size=384, spacing_mm=(4, 3.0, 3.0), crop_to="lungs", xrays=10, cts=10)
    assert made.contract["records"]["xray"]["image"] == [384, 384]
    assert (made.film_size, made.volume_shape) == (384, None)
    ct = made.contract["records"]["ct"]
    assert (ct["volume"], ct["spacing_mm"], ct["crop_to"]) == ([None] * 3, [4.0, 3.0, 3.0], "lungs")
    film = made.source("xray", "train")[0]
    assert film["image"].shape == film["organ_mask"].shape == (384, 384)
    shapes = set()
    for record in made.source("ct", "train"):
        shapes.add(record["volume"].shape)
        assert record["volume"].shape == record["organ_mask"].shape == record["lesion_mask"].shape
        assert record["affine"].dtype == record["original_affine"].dtype == np.float64
        assert (record["original_shape"] >= record["volume"].shape).all()
        np.testing.assert_allclose(np.abs(record["affine"][:3, :3]).sum(0), [4, 3, 3])
    assert len(shapes) > 1


def test_the_box_of_the_lungs_holds_them_and_little_more():
    grids = (RecordGrid(spacing_mm=(3.0, 3.0, 3.0), crop_to=crop) for crop in ("lungs", ""))
    cropped, whole = (phantom.source(xrays=0, cts=3, grid=grid) for grid in grids)
    for row in cropped.rows:
        inside, all_of_it = cropped.convert(row), whole.convert(row)
        lungs = [np.isin(one["organ_mask"], (1, 2)).sum() for one in (inside, all_of_it)]
        assert lungs[0] >= 0.998 * lungs[1]
        assert inside["volume"].size < 0.6 * all_of_it["volume"].size
        start = np.rint(np.linalg.solve(all_of_it["affine"], inside["affine"][:, 3])[:3]).astype(int)
        box = tuple(slice(first, first + n) for first, n in zip(start, inside["volume"].shape, strict=True))
        np.testing.assert_array_equal(inside["volume"], all_of_it["volume"][box])


def test_large_records_do_not_pile_up_in_the_process_that_writes_them():
    grids = (record_grid.DEFAULT, RecordGrid(volume=(320, 320, 400)), RecordGrid(spacing_mm=(1.0, 1.0, 1.0)))
    assert [pool.in_flight(grid) for grid in grids] == [pool.IN_FLIGHT, 1, 1]


def test_a_grid_that_no_worker_holds_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(UserError, match=r"config.volume=\(640, 640, 640\) takes 0.8 GB per worker"):
        build(tmp_path, volume=(640, 640, 640), worker_memory_gb=0.5)
    with pytest.raises(UserError, match="crop_to=lungs needs config"):
        build(tmp_path, crop_to="lungs")
