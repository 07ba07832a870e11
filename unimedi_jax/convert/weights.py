"""Weight files of others as plain float32 arrays. A pickle is read by PyTorch's `weights_only` or not at all."""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.serialization
import numpy as np
import safetensors
import safetensors.numpy

from data import json_files
from data.errors import UserError
from unimedi_jax.convert import hub

SAFE = ("model.safetensors", "open_clip_model.safetensors")
FLAX = ("flax_model.msgpack",)
PICKLED = ("pytorch_model.bin", "pytorch_model.pth", "open_clip_pytorch_model.bin")
KINDS = (SAFE, FLAX, PICKLED)
BESIDE = ("*.json", "vocab.txt", "merges.txt")  # settings, preprocessing, words
NESTS = ("model", "state_dict", "teacher")  # DeiT and MAE; many trainers; DINO


def folder(name: str, needed: str) -> pathlib.Path:
    """The local folder of a model: `name`, or what the Hugging Face hub (or its cache) has under this id (@revision).

    Raises:
        UserError: neither; the message says which files (`needed`) to put where.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        return path
    ours = f"put {needed} into a folder and name that folder, or leave the setting of config.init empty"
    if "/" in name and not hub.is_id(name):
        raise UserError(f"no weights at {name}: no such file or folder; {ours}")
    try:
        return fetch(name)
    except hub.HubError as error:
        raise UserError(f"no weights '{name}': no such file or folder, and {error}; {ours}") from error


def fetch(name: str) -> pathlib.Path:
    """What the Hugging Face hub, or its cache, has under this id (@revision), with weights of the safest kind alone.

    Raises:
        HubError: the hub cannot be reached or has no such model, and the cache does not have it.
        UserError: it has no weights of a kind that is read.
    """
    place = hub.cached(name, [*BESIDE, *itertools.chain(*KINDS)])
    if place is not None and any((place / file).exists() for file in itertools.chain(*KINDS)):
        return place
    listed = hub.sizes(name)
    # Models may come in all kinds: the safest alone.
    files = next((kind for kind in KINDS if listed.keys() & set(kind)), ())
    if files:
        return hub.snapshot(name, [*BESIDE, *files])
    raise UserError(f"the hub's '{name}' has none of {', '.join((*SAFE, *FLAX, *PICKLED))}: choose another model")


def find(place: pathlib.Path) -> pathlib.Path:
    """The weight file of a folder, safest kind first. Raises UserError."""
    for file in (*SAFE, *FLAX, *PICKLED):
        if (place / file).is_file():
            return place / file
    several = sorted(
        p for p in place.iterdir() if p.suffix in (".safetensors", ".msgpack", ".bin", ".pth", ".pt", ".ckpt")
    )
    if len(several) == 1:
        return several[0]
    raise UserError(f"{place} holds none of {', '.join((*SAFE, *FLAX, *PICKLED))}: name the weight file itself")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of a weight file under its name there, as float32.

    Raises:
        UserError: no such file, a kind that is not read, a damaged one, or a pickle without PyTorch.
    """
    if not path.is_file():
        raise UserError(f"no weight file {path}")
    readers = {".safetensors": _safetensors, ".msgpack": _msgpack} | dict.fromkeys(
        (".bin", ".pth", ".pt", ".ckpt"), _pickled
    )
    if path.suffix not in readers:
        raise UserError(
            f"{path} is not a weight file that can be read: .safetensors, .msgpack, .pth, .pt, .ckpt or .bin"
        )
    arrays = {name: np.asarray(value) for name, value in readers[path.suffix](path).items()}
    if odd := [
        name for name, value in arrays.items() if value.dtype.kind not in "fiub" and "float" not in str(value.dtype)
    ]:
        raise UserError(f"{path}: {odd[0]} holds no numbers: fetch the file again")
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    if bad := [name for name, value in arrays.items() if not np.isfinite(value).all()]:
        raise UserError(f"{path}: {bad[0]} has NaN or infinite numbers: fetch the file again")
    return arrays


def config(place: pathlib.Path) -> dict[str, Any]:
    """A model folder's `config.json`. Raises UserError where there is none."""
    return json_files.read_object(place / "config.json", "it says how wide and deep the model is", most=1 << 20)


def _safetensors(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is cut short, damaged or no safetensors file: fetch it again") from error


def _msgpack(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    try:
        return _torch_names(flax.serialization.msgpack_restore(path.read_bytes()))
    except Exception as error:  # msgpack raises whatever the damage leads to
        raise UserError(f"{path} is cut short, damaged or no flax file: fetch it again") from error


def _torch_names(tree: Mapping[str, Any], start: str = "") -> dict[str, np.ndarray]:
    """Flax's nested tree of a Hugging Face model under PyTorch's names."""
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _torch_names(value, f"{start}{key}.")
        elif key == "kernel" and np.ndim(value) == 2:
            flat[f"{start}weight"] = np.asarray(value).T
        else:
            flat[start + ("weight" if key in ("embedding", "scale") else key)] = np.asarray(value)
    return flat


def _pickled(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a pickle, which only PyTorch reads safely: pip install torch, or give .safetensors"
        ) from error
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage leads to
        raise UserError(
            f"{path} is damaged, or holds more than arrays, which may run code and is not read: "
            "fetch it again, or give the weights as .safetensors"
        ) from error
    while isinstance(tree, Mapping) and not any(torch.is_tensor(value) for value in tree.values()):
        nest = next((nest for nest in NESTS if isinstance(tree.get(nest), Mapping)), None)
        if nest is None:
            break
        tree = tree[nest]
    if not isinstance(tree, Mapping) or not any(torch.is_tensor(value) for value in tree.values()):
        raise UserError(f"{path} holds no dictionary of arrays: give a model's state_dict")
    return {name: value.float().numpy() for name, value in tree.items() if torch.is_tensor(value)}
