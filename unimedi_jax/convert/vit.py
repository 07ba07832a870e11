"""Weights of published ViTs, in timm's names (DeiT, MAE and DINOv2 share them), made to fit UniMedI's vision tower."""

import dataclasses
import math
import pathlib
import re
from typing import Any

import jax
import numpy as np

from data.errors import UserError
from unimedi_jax.convert import names, weights
from unimedi_jax.models import sizes, towers

NEEDED = ("patch_embed.proj.weight", "cls_token", "pos_embed", "blocks.0.attn.qkv.weight")
REGISTERS = "reg_token"
EXTRA_TOKENS = ("register_tokens", "storage_tokens", "dist_token")
HEADS = re.compile(r"(head|head_dist|fc_norm|pre_logits|decoder|mask_token)\b|decoder_")
FILES = "model.safetensors (timm's names)"


@dataclasses.dataclass(frozen=True)
class Weights:
    """A foreign tower as UniMedI's: arrays under `names`' names, and what was done to them."""

    state: names.State
    changed: tuple[str, ...]
    skipped: tuple[str, ...]


def open_file(name: str) -> pathlib.Path:
    """The weight file of a path, a folder, a hub id or a timm name. Raises UserError."""
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    hub = name if "/" in name or path.exists() or path.suffix in (".safetensors", ".pth", ".bin") else f"timm/{name}"
    return weights.find(weights.folder(hub, FILES))


def read(name: str, model: towers.UniMedI) -> Weights:
    """A ViT for this model: one channel, this model's grids, T_3D inflated from the 2D kernel.

    Raises:
        UserError: no ViT in timm's names, another size, other registers, distillation tokens, unknown parts of a block.
    """
    path = open_file(name)
    state = _state(path)
    _check(state, model, path)
    skipped = [key for key in state if HEADS.match(key)]
    state = {key: value for key, value in state.items() if key not in skipped}
    changed: list[str] = []
    state = _fold_layer_scale(state, changed)
    state["patch_embed.proj.weight"] = _one_channel(state["patch_embed.proj.weight"], changed)
    own = {key: state.pop(key) for key in ("patch_embed_3d.proj.weight", "patch_embed_3d.proj.bias") if key in state}
    registers = state.get(REGISTERS, np.zeros((1, 0, model.vision.width), np.float32))
    prefix, grid = split_table(state.pop("pos_embed"), registers.shape[1], str(path))
    target = model.vision.image_grid
    if grid.shape[:2] != target:
        changed.append(f"positions interpolated from {grid.shape[:2]} to {target}")
        grid = _resize(grid, target)
    state["pos_embed"] = np.concatenate([prefix, grid.reshape(1, -1, grid.shape[-1])], axis=1)
    state |= own or _inflated(state, model, grid, changed)
    state = _silent_subpatches(model, changed) | state
    return Weights({f"vision.{key}": value for key, value in state.items()}, tuple(changed), tuple(skipped))


def settings(path: pathlib.Path) -> dict[str, Any]:
    """What `config.model` has to say for the ViT of a file: its size by name, its patch.

    Raises:
        UserError: no ViT in timm's names, or one of a size that has no name here.
    """
    state = _state(path)
    _check_names(state, path)
    for name, size in sizes.VISION.items():
        if (size.width, size.depth, size.mlp_width) == _size(state):
            registers = state[REGISTERS].shape[1] if REGISTERS in state else 0
            return {"vision_size": name, "image_patch": state[NEEDED[0]].shape[2:], "registers": registers}
    width, depth, wide = _size(state)
    raise UserError(f"{path} is a ViT of width {width}, depth {depth}, MLP {wide}: none of {', '.join(sizes.VISION)}")


def _state(path: pathlib.Path) -> names.State:
    """The arrays of a file by timm's names, without any prefix."""
    state = weights.read(path)
    prefix = next((key[: -len(NEEDED[0])] for key in state if key.endswith(NEEDED[0])), "")
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _size(state: names.State) -> tuple[int, int, int]:
    """Width, depth, width of the MLP."""
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    return state["cls_token"].shape[-1], depth, state.get("blocks.0.mlp.fc1.weight", np.zeros((0, 0))).shape[0]


def _check_names(state: names.State, path: pathlib.Path) -> None:
    if missing := [key for key in NEEDED if key not in state]:
        raise UserError(f"{path} is not a ViT in timm's names: it lacks {', '.join(missing)}")


def _check(state: names.State, model: towers.UniMedI, path: pathlib.Path) -> None:
    if extra := [key for key in EXTRA_TOKENS if key in state]:
        raise UserError(
            f"{path} has {extra[0]} {state[extra[0]].shape}: this ViT computes with tokens that UniMedI's lacks, "
            "and without them it would be another function; choose the model without register or distillation tokens"
        )
    if REGISTERS in state and state[REGISTERS].shape[1] != model.vision.registers:
        count, ours = state[REGISTERS].shape[1], model.vision.registers
        raise UserError(f"{path} has {count} registers (reg_token), config.model.registers={ours}: set it to {count}")
    _check_names(state, path)
    width, depth, wide = _size(state)
    tower = model.vision
    if (width, depth, wide) != (tower.width, tower.depth, tower.mlp_width):
        raise UserError(
            f"{path} is a ViT of width {width}, depth {depth}, MLP {wide}; config.model.vision_size asks for "
            f"width {tower.width}, depth {tower.depth}, MLP {tower.mlp_width}: choose the same"
        )
    kernel = state["patch_embed.proj.weight"].shape
    if kernel[1] not in (1, 3) or kernel[2:] != model.image_patch:
        raise UserError(
            f"{path} cuts patches of {kernel[2:]} with {kernel[1]} channels, config.model.image_patch is "
            f"{model.image_patch}: choose the same patch, and 1 or 3 channels"
        )


def _fold_layer_scale(state: names.State, changed: list[str]) -> names.State:
    # gamma * (W x + b) = (gamma W) x + gamma b: DINOv2's LayerScale needs no parameter of its own.
    state = dict(state)
    scales = [key for key in state if re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", key)]
    for key in scales:
        gamma, start = state.pop(key), key.rsplit(".", 2)[0]
        target = f"{start}.attn.proj" if ".ls1." in key else f"{start}.mlp.fc2"
        for part, factor in (("weight", gamma[:, None]), ("bias", gamma)):
            if f"{target}.{part}" in state:  # else it is missed by name later
                state[f"{target}.{part}"] = state[f"{target}.{part}"] * factor
    if scales:
        changed.append(f"{len(scales)} LayerScales folded into the projections before them")
    return state


def _one_channel(kernel: np.ndarray, changed: list[str]) -> np.ndarray:
    """A grey X-ray in every channel of an RGB kernel gives what it gives in one channel with the sum of the kernels."""
    if kernel.shape[1] == 1:
        return kernel
    changed.append("RGB patch kernel summed to one channel")
    return kernel.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)


def split_table(table: np.ndarray, registers: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The table of CLS and registers (zeros where it has none) and that of a square grid (y, x, d).

    Raises:
        UserError: what is left is no square.
    """
    count, width = table.shape[-2:]
    for first in dict.fromkeys((1 + registers, 1, 0)):
        side = math.isqrt(max(count - first, 0))
        if side and side * side == count - first:
            prefix = np.pad(table[:, :first], ((0, 0), (0, 1 + registers - first), (0, 0)))
            return prefix, table[0, first:].reshape(side, side, width)
    raise UserError(f"{where}: pos_embed has {count} rows, which is not a square grid, with or without CLS")


def _resize(grid: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    # As models/vision.py does for a grid that the table was not made for.
    return np.asarray(jax.image.resize(grid, (*target, grid.shape[-1]), "cubic", antialias=False))


def _inflated(state: names.State, model: towers.UniMedI, grid: np.ndarray, changed: list[str]) -> names.State:
    """T_3D from T_2D: a volume whose slices are all alike gets the token of one of them.

    Its positions are those of the 2D table, resized in plane and the same in every depth layer. Another patch
    in plane than the 2D one has no kernel to inflate: T_3D's stays new.
    """
    layers, *plane = model.volume_grid
    table = np.broadcast_to(_resize(grid, tuple(plane)), (layers, *plane, grid.shape[-1]))
    inflated = {"pos_embed_3d": table.reshape(1, -1, grid.shape[-1])}
    depth, *patch = model.volume_patch
    if tuple(patch) == model.image_patch:
        kernel = state["patch_embed.proj.weight"][:, :, None] / np.float32(depth)
        inflated["patch_embed_3d.proj.weight"] = np.repeat(kernel, depth, axis=2)
        inflated["patch_embed_3d.proj.bias"] = state["patch_embed.proj.bias"]
        changed.append(f"T_3D's kernel inflated over {depth} slices")
    changed.append("T_3D's positions taken from the 2D table")
    return inflated


def _silent_subpatches(model: towers.UniMedI, changed: list[str]) -> names.State:
    """Zeros for the maps of sub-patches to the width: this model's function is the file's until it is trained."""
    tower = model.vision
    parts = {"subpatch_embed": tower.subpatch_2d, "subpatch_embed_3d": tower.subpatch_3d}
    state = {
        f"{name}.out.weight": np.zeros((tower.width, part.hidden * (part.count + 1)), np.float32)
        for name, part in parts.items()
        if part is not None
    }
    if state:
        changed.append("the sub-patches' part of the tokens starts at zero")
    return state
