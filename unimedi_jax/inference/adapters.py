"""Adapters (LoRA) as a file of their own: a few megabytes that turn their base into the network they were trained in.

It holds the adapters' arrays alone, by their paths, and fingerprints: of these, against damage, and of the kernels that
they were trained beside, so that no other network gets them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from data.errors import UserError
from unimedi_jax import fingerprint, lora
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.typing import Params, PyTree

FORMAT = 1
FILE = "adapters.safetensors"
METADATA = "unimedi_adapters"


def write(path: pathlib.Path, adapters: PyTree, kernels: Mapping[str, str]) -> None:
    """The adapters of a network whose adapted kernels have these fingerprints."""
    flat = traverse_util.flatten_dict(jax.device_get(adapters), sep="/")
    arrays = {name: np.asarray(x, order="C") for name, x in sorted(flat.items())}
    facts = {"format": FORMAT, "kernels": dict(kernels), "arrays": fingerprint.arrays(adapters)}
    path.write_bytes(safetensors.numpy.save(arrays, {METADATA: json.dumps(facts, sort_keys=True)}))


def add(trained: Pretrained, file: str) -> Pretrained:
    """The network with a file's adapters merged into its kernels.

    Raises:
        UserError: no such file, a damaged one, or one of another network.
    """
    path = pathlib.Path(file).expanduser()
    adapters, facts = _read(path)
    params = trained.variables["params"]
    try:
        own = lora.kernels_of(params, adapters)
        same = fingerprint.arrays(own) == facts["kernels"]
    except (KeyError, TypeError):
        same = False
    if not same:
        raise UserError(
            f"{path} was trained beside other weights than those of {trained.path}: name its own base as "
            "config.checkpoint"
        )
    merged = lora.merge({**params, lora.KEY: adapters})
    return dataclasses.replace(trained, variables={**trained.variables, "params": merged})


def _read(path: pathlib.Path) -> tuple[Params, dict[str, Any]]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            facts = json.loads((file.metadata() or {})[METADATA])
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        whole = facts["format"] == FORMAT and isinstance(facts["kernels"], dict) and bool(flat)
        adapters = traverse_util.unflatten_dict(jax.device_put(flat), sep="/")
        whole = whole and fingerprint.arrays(adapters) == facts["arrays"]
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or holds no adapters: name the {FILE} of an export") from error
    if not whole:
        raise UserError(f"{path} is damaged, or of another version of this program: bring back a copy of it")
    return adapters, facts
