"""Tiny films and CTs to make public trees of, and the whole build job over such a tree."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
import tensorflow_datasets as tfds

from configs import build as build_config
from data import job
from data.build import dataset
from data.manifest import privacy
from tests import dicoms

SALT = "a salt of the tests"


def picture(seed: int = 0, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    """A blurred pattern, uint8 (y, x), no two seeds alike."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape), (0, 0), 4)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def film(path: Path, seed: int = 0, shape: tuple[int, int] = (64, 64)) -> Path:
    """A film as PNG, JPEG or DICOM, by the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".dcm":
        assert cv2.imwrite(str(path), picture(seed, shape))
        return path
    made = dicoms.dataset(
        picture(seed, shape),
        Modality="CR",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PatientID=path.stem,
        WindowCenter=128,
        WindowWidth=256,
        SOPClassUID=pydicom.uid.ComputedRadiographyImageStorage,
    )
    made.save_as(path, enforce_file_format=True)
    return path


def chest(seed: int = 0, shape: tuple[int, int, int] = (24, 24, 12)) -> np.ndarray:
    """Air around soft tissue, int16 HU (x, y, z)."""
    hu = np.full(shape, -1000, np.int16)
    hu[4:-4, 4:-4] = 40
    return hu + np.random.default_rng(seed).integers(-20, 20, shape).astype(np.int16)


def ct(path: Path, seed: int = 0, voxels: np.ndarray | None = None) -> Path:
    """A CT, or the given voxels, as NIfTI with axes (x, y, z) to Left, Posterior, Superior."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nibabel.Nifti1Image(chest(seed) if voxels is None else voxels, np.diag([-1.0, -1.0, 2.0, 1.0]))
    nibabel.save(made, path)
    return path


def rows(path: Path, header: str, *lines: str) -> Path:
    """A text table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


@dataclasses.dataclass(frozen=True)
class Set:
    """A built set: its records, by the path that they were made of, its contract, and what the job printed."""

    contract: dict[str, Any]
    records: dict[str, dict[str, dict[str, Any]]]  # split -> key -> record
    rejected: list[dict[str, Any]]
    printed: str

    def record(self, path: str, split: str, key: str = "") -> dict[str, Any]:
        return self.records[split][privacy.pseudonym(key or path, SALT)]

    def splits(self) -> dict[str, int]:
        return {split: len(by_id) for split, by_id in self.records.items() if by_id}

    def counted(self, line: str) -> bool:
        """Whether the job printed this line, whatever the blanks between its words."""
        return line in (" ".join(one.split()) for one in self.printed.splitlines())


@pytest.fixture
def build(tmp_path, capsys):
    """`build(name, root, report={...}, name="x", ...)`: the whole job; keyword arguments are options of the set."""

    def run(
        kind: str, root: Path, report: dict | None = None, spacing_mm: tuple[float, ...] = (), **options: Any
    ) -> Set:
        config = build_config.get_config(kind)
        config.source, config.data_dir, config.workers = str(root), str(tmp_path / "records"), 1
        config.keep_ids, config.salt, config.max_rejected = True, SALT, 1.0
        config.name = f"{kind}_{len(list((tmp_path / 'records').glob('*')))}"
        config.spacing_mm = spacing_mm
        config.options.update(options)
        if report:
            config.report.update(report)
        capsys.readouterr()
        job.run(config, tmp_path / "run")
        folder = Path(config.data_dir) / config.name
        contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
        records: dict[str, dict[str, Any]] = {split: {} for split in ("train", "val", "test")}
        for modality, counts in contract["splits"].items():
            builder = tfds.builder_from_directory(folder / modality / "1.0.0")
            for split, count in counts.items():
                for record in builder.as_data_source(split) if count else ():
                    record = {name: v.decode() if isinstance(v, bytes) else v for name, v in record.items()}
                    records[split][record["id"]] = record
        ledger = dataset.readable_ledger(folder)
        rejected = (
            [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()] if ledger.exists() else []
        )
        return Set(contract, records, rejected, capsys.readouterr().out)

    return run
