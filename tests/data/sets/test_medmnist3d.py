"""MedMNIST 3D on a file of its layout: many volumes in one file, each a record with its own key."""

import numpy as np
import pytest

from data.errors import UserError
from data.sets import medmnist3d


def write(path, side):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, side, side, side), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None]
    np.savez_compressed(path, **arrays)
    return arrays


def test_every_volume_is_a_record(tmp_path, build):
    arrays = write(tmp_path / "organmnist3d.npz", 28)
    made = build("medmnist3d", tmp_path)
    assert made.splits() == {"train": 5, "val": 2, "test": 3}
    assert made.contract["labels"][:3] == ["liver", "kidney-right", "kidney-left"]
    one = made.record("organmnist3d.npz", "train", "organmnist3d.npz train/3")
    assert one["labels"].argmax() == 3
    assert one["patient"] == "train/3"
    assert np.isnan(one["spacing_mm"]).all()
    # 28 voxels become 32 slices: the mean of the greys stays, on the nominal range.
    mean = -1000 + arrays["train_images"][3].mean() * 2000 / 255
    assert one["volume"].mean() == pytest.approx(mean, abs=15)
    assert made.counted("train volumes of organmnist3d 5 971 DIFFERS")
    assert made.counted("test 3 610 DIFFERS")
    assert len({key for part in made.records.values() for key in part}) == 10


def test_other_parts_and_sizes(tmp_path, build):
    write(tmp_path / "nodulemnist3d_64.npz", 32)
    made = build("medmnist3d", tmp_path, part="nodulemnist3d", size=64)
    assert made.contract["labels"] == ["benign", "malignant"]
    with pytest.raises(UserError, match=r"has no nodulemnist3d\.npz \(there is nodulemnist3d_64\.npz"):
        build("medmnist3d", tmp_path, part="nodulemnist3d")
    with pytest.raises(UserError, match=r"config\.options\.part is 'x'"):
        build("medmnist3d", tmp_path, part="x")


def test_every_set_has_its_sizes_and_two_classes_at_least():
    assert medmnist3d.SIZES.keys() == medmnist3d.CLASSES.keys()
    assert sum(medmnist3d.SIZES["adrenalmnist3d"]) == 2 * 792, "two glands of each patient"
    assert all(len(names.split(", ")) > 1 for names in medmnist3d.CLASSES.values())
