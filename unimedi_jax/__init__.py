"""UniMedI on JAX: chest X-rays, CT volumes and their reports in one space.

model = unimedi_jax.load("runs/pretrain-demo")    # a workdir or an export, also gs:// or s3://, or org/name of the hub
embedded = model.embed("xrays/")                    # a file, folder, DICOM series, .csv manifest or .txt of reports
cosines = embedded.z @ model.embed_reports(["There is a pleural effusion."]).T    # (n, 1)
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np

    from unimedi_jax.inference.embed import Model


def load(path: "str | PathLike[str]", network: str = "student", **settings: int | bool | str) -> "Model":
    """A trained network by its path, its address in a bucket or its name on the hub. Imports JAX.

    See `unimedi_jax.inference.embed.load`.
    """
    from unimedi_jax.inference import embed

    return embed.load(path, network, **settings)


def attention(path: "str | PathLike[str]", model: "Model | str | PathLike[str]") -> "np.ndarray":
    """Where a network attends in one X-ray or CT, on its own grid, see `unimedi_jax.inference.embed.Model.attention`.

    `model` is what `load` returns, or what it takes.
    """
    return (model if hasattr(model, "attention") else load(model)).attention(path)
