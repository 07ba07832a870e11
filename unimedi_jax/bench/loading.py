"""What people train from otherwise: a PyTorch data set that decodes the originals, sample by sample. No JAX here."""

import pathlib

import cv2
import nibabel
import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from data.readers import table

VOLUME = (32, 128, 128)


class Films(Dataset):
    """JPEG to a normalised crop: decoded in grey, longest side to 256, 224 cut out."""

    def __init__(self, files: list[pathlib.Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = cv2.imread(str(self.files[index]), cv2.IMREAD_GRAYSCALE)
        scale = 256 / max(image.shape)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.pad(image, [(0, 256 - n) for n in image.shape])
        y, x = torch.randint(0, 33, (2,)).tolist()
        return torch.from_numpy(image[y : y + 224, x : x + 224]).float().div(127.5).sub(1)


class Scans(Dataset):
    """NIfTI to a normalised volume: nibabel's get_fdata and scipy's linear zoom."""

    def __init__(self, files: list[pathlib.Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(shrunk(self.files[index])).float().clamp(-1000, 1000).div(1000)


def shrunk(file: pathlib.Path) -> np.ndarray:
    """A volume at the network's size, in float64 as `get_fdata` gives it."""
    volume = nibabel.load(file).get_fdata().transpose(2, 1, 0)
    return ndimage.zoom(volume, [new / old for new, old in zip(VOLUME, volume.shape, strict=True)], order=1)


def batches(path: pathlib.Path, modality: str, rows: int, workers: int) -> DataLoader:
    """Shuffled batches of the originals that a manifest names."""
    rows = table.read_published(path, ("path", "modality"))
    files = [path.parent / row["path"] for row in rows if row["modality"] == modality]
    torch.set_num_threads(1)  # as in its workers: more only spin
    kind = Films if modality == "xray" else Scans
    return DataLoader(kind(files), batch_size=rows, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
