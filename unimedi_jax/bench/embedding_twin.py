"""Embedding as one would write it in PyTorch today: a DataLoader over files, a ViT with SDPA, a parquet file."""

import pathlib
from typing import Any

import cv2
import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from torch.utils import data

from unimedi_jax import patches
from unimedi_jax.bench import twin


class Films(data.Dataset):
    """X-rays as the patches of a network of these `settings` (of `config.pretrain.model`)."""

    def __init__(self, files: list[pathlib.Path], settings: dict[str, Any]) -> None:
        self.files, self.side, self.patch = files, settings["image_size"], tuple(settings["image_patch"])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = cv2.imread(str(self.files[index]), cv2.IMREAD_GRAYSCALE)
        scale = 256 / max(image.shape)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.pad(image, [(0, 256 - n) for n in image.shape])[16:240, 16:240]
        image = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(patches.patchify(image[None], self.patch)[0].copy())


class Embedding:
    """The network and its loader, whose workers stay from one pass over the files to the next."""

    def __init__(self, files: list[pathlib.Path], settings: dict[str, Any], rows: int, workers: int) -> None:
        self._files, self._vision = files, twin.Vision(settings).eval()
        # Spawned: this process has threads of JAX, which no fork survives.
        kwargs = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
        self._loader = data.DataLoader(Films(files, settings), rows, num_workers=workers, **kwargs)

    def run(self, out: pathlib.Path) -> None:
        """Every file's CLS into `out`."""
        with torch.inference_mode():
            rows = [self._cls(batch).numpy() for batch in self._loader]
        flat = pyarrow.array(np.concatenate(rows).reshape(-1))
        cls = pyarrow.FixedSizeListArray.from_arrays(flat, rows[0].shape[1])
        parquet.write_table(pyarrow.table({"id": [file.name for file in self._files], "cls": cls}), out)

    def _cls(self, batch: torch.Tensor) -> torch.Tensor:
        tokens = self._vision.image(batch.float().div(127.5).sub(1))
        return self._vision(tokens)[0][:, 0]
