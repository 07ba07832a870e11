"""docs/tutorial.md, command by command, in a folder with a table and images; the network and its run are toys."""

import csv
import os
import pathlib
import shlex
import subprocess
import sys

import cv2
import nibabel
import numpy as np
import pyarrow.parquet as parquet
import pytest

from tests.data.test_bad_inputs import LPS, chest
from tests.test_documents import commands

ROOT = pathlib.Path(__file__).parents[1]
TOY = {
    "configs/pretrain.py:demo": (
        "--config.steps=2",
        "--config.batch.xray=4",
        "--config.batch.ct=2",
        "--config.input.crop=32",
        "--config.model.image_size=32",
        "--config.model.slice_size=32",
        "--config.model.volume_size=(8,32,32)",
        "--config.model.prototypes_cls=16",
        "--config.model.prototypes_patch=16",
    )
}
SPLITS = ("train", "train", "train", "val", "test")


def _film(path: pathlib.Path, seed: int) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(80, 64)), (0, 0), 4)
    cv2.imwrite(str(path), cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`my.csv` with 20 X-rays and 10 CTs, and `new/` with two images, as the tutorial has them."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "films").mkdir()
    (folder / "scans").mkdir()
    (folder / "new").mkdir()
    rows = [["path", "modality", "report", "patient", "split", "label:effusion"]]
    for number in range(30):
        effusion = number // len(SPLITS) % 2
        words = f"{'Small' if effusion else 'No'} pleural effusion. Nodule of {number} mm."
        if number < 20:
            path = f"films/{number}.png"
            _film(folder / path, number)
        else:
            path = f"scans/{number}.nii.gz"
            hu = chest() + np.random.default_rng(number).integers(0, 9, chest().shape)
            nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), LPS), folder / path)
        split = SPLITS[number % len(SPLITS)]
        rows.append([path, "xray" if number < 20 else "ct", words, f"p{number}", split, str(effusion)])
    with (folder / "my.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    _film(folder / "new" / "a.png", 100)
    nibabel.save(nibabel.Nifti1Image(chest(), LPS), folder / "new" / "b.nii.gz")
    return folder


@pytest.fixture(scope="module")
def said(folder: pathlib.Path) -> dict[str, str]:
    """What each command printed, by its file; each ends with 0."""
    outputs: dict[str, str] = {}
    for line in commands("docs/tutorial.md"):
        words = shlex.split(line)
        job = words[0].removeprefix("--config=")
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *words, *TOY.get(job, ())],
            cwd=folder,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
        outputs[job] = outputs.get(job, "") + done.stdout
    return outputs


def test_every_command_leaves_what_the_page_says(folder: pathlib.Path, said: dict[str, str]) -> None:
    for path in ("runs/check/doctor.html", "records/mine/contract.json", "runs/mine/report/index.html", "near.html"):
        assert (folder / path).is_file(), path
    assert len(list(folder.glob("runs/evaluate-mine-*/*.html"))) == 1
    assert list(folder.glob("runs/mine-probe/**/*.safetensors"))
    with (folder / "findings.csv").open(newline="", encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    assert {row["file"] for row in found} == {"a.png", "b.nii.gz"}
    assert parquet.read_table(folder / "new.parquet").num_rows == 2
    assert (folder / "export" / "unimedi.safetensors").is_file()


def test_the_line_that_a_build_prints_is_the_next_one_of_the_page(said: dict[str, str]) -> None:
    words = ("configs/pretrain.py:demo", "--config.data=mine", "--workdir=runs/mine")
    assert all(word in said["configs/build.py:manifest"] for word in words)
