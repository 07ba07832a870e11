"""Released ViTs as arrays of `models/released_vit.py`: one grey channel in [-1, 1], positions of the size asked for."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from data.errors import UserError
from unimedi_jax.convert import released_names
from unimedi_jax.convert.names import State
from unimedi_jax.convert.vit import split_table
from unimedi_jax.models import sizes
from unimedi_jax.models.released_vit import POOLS, Architecture

MODULES = {"norm1": "norm1", "qkv": "attn.qkv", "out": "attn.proj", "norm2": "norm2"}  # of a block; its MLP is apart
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
OF_A_HEAD = 64  # entries, where nothing else is known
HEADS = {1152: 16}  # by the width: SigLIP's so400m
ROPE_BASE = 100.0  # DINOv3's
# What transformers takes for granted where a config.json is silent, by the beginning of its model_type.
DEFAULTS: dict[str, dict[str, Any]] = {"siglip": {"hidden_act": "gelu_pytorch_tanh"}, "vit": {"layer_norm_eps": 1e-12}}
Params = dict[str, Any]


class Reading(NamedTuple):
    """What the arrays of a file do not say."""

    size: int  # pixels of the input, square
    mean: tuple[float, ...] = (0.5,)  # grey levels in [0, 1] were scaled to (grey - mean) / deviation,
    deviation: tuple[float, ...] = (0.5,)  # all channels alike or each of three
    heads: int = 0  # 0: by the settings, the size's name or the width
    pool: str = ""  # "": attention pooling where there is one, else CLS, else the mean
    settings: Mapping[str, Any] = types.MappingProxyType({})  # Hugging Face's config.json


class Vit(NamedTuple):
    """A file's ViT: what it is, its parameters, and what was done to them."""

    shape: Architecture
    params: Params
    changed: tuple[str, ...]
    skipped: tuple[str, ...]


def read(state: State, reading: Reading, where: str) -> Vit:
    """The ViT among the arrays of a file, by whatever names; `where` is the file in messages.

    Raises:
        UserError: no ViT, parts that are not known, a size that the patches do not divide.
    """
    outside, blocks, skipped = released_names.to_timm(state, where)
    shape = _shape(outside, blocks, reading, where)
    changed: list[str] = []
    params = {"patch_2d": _patch(outside, reading, changed)}
    params |= _tokens(outside, shape, reading, changed, where)
    params["trunk"] = {"blocks": _stacked(blocks), "norm": _norm(outside, "norm")}
    if shape.pool == "attention":
        params["pool"] = _pool(outside)
    return Vit(shape, params, tuple(changed), tuple(skipped))


def _shape(outside: State, blocks: Sequence[State], reading: Reading, where: str) -> Architecture:
    kernel, settings = outside["patch_embed.proj.weight"], _settings(reading)
    width, patch = kernel.shape[0], kernel.shape[-1]
    if kernel.ndim != 4 or kernel.shape[1] not in (1, 3) or kernel.shape[2] != patch:
        raise UserError(f"{where} has a patch kernel of {kernel.shape}, not of 1 or 3 channels and square patches")
    if not blocks or reading.size % patch:
        raise UserError(f"{where} cuts patches of {patch} pixels, which do not divide size={reading.size}")
    mlp_width, gated = blocks[0]["mlp.fc2.weight"].shape[1], False
    if len(blocks[0]["mlp.fc1.weight"]) == 2 * mlp_width:
        gated = True
    activation = settings.get("hidden_act", "gelu")
    if not gated and activation not in ACTIVATIONS:
        raise UserError(f"{where}: hidden_act is {activation!r}, not one of {', '.join(ACTIVATIONS)}")
    rope = 0.0 if "pos_embed" in outside else float(settings.get("rope_theta", ROPE_BASE))
    has_cls = "cls_token" in outside
    pool = reading.pool or ("attention" if "attn_pool.latent" in outside else "cls" if has_cls else "mean")
    if (
        pool not in POOLS
        or (pool == "cls" and not has_cls)
        or (pool == "attention" and "attn_pool.latent" not in outside)
    ):
        raise UserError(f"{where}: pool={pool} is none of {', '.join(POOLS)}, or its arrays are not in the file")
    named = {(size.width, size.depth, size.mlp_width): size.heads for size in sizes.VISION.values()}
    known = named.get((width, len(blocks), mlp_width)) or HEADS.get(width) or max(width // OF_A_HEAD, 1)
    heads = reading.heads or settings.get("num_attention_heads") or known
    if width % heads:
        raise UserError(f"{where}: {heads} heads do not divide its width of {width}: set heads=")
    return Architecture(
        width=width,
        depth=len(blocks),
        heads=heads,
        mlp_width=mlp_width,
        patch=patch,
        grid=(reading.size // patch,) * 2,
        has_cls=has_cls,
        registers=outside["reg_token"].shape[-2] if "reg_token" in outside else 0,
        mlp="swiglu" if gated else ACTIVATIONS[activation],
        epsilon=float(settings.get("layer_norm_eps", 1e-5 if rope else 1e-6)),
        rope=rope,
        pool=pool,
    )


def _settings(reading: Reading) -> dict[str, Any]:
    kind = str(reading.settings.get("model_type", ""))
    defaults = next((values for start, values in DEFAULTS.items() if kind.startswith(start)), {})
    return {**defaults, **reading.settings}


def _patch(outside: State, reading: Reading, changed: list[str]) -> Params:
    """The tokenizer for one channel in [-1, 1]: sum over channels of K ((x + 1) / 2 - mean) / deviation, plus the bias.

    A grey X-ray in every channel of an RGB kernel is what it is in one channel with the sum of the kernels.
    """
    kernel = outside["patch_embed.proj.weight"].astype(np.float64)
    channels = kernel.shape[1]
    mean, deviation = (np.resize(np.array(x, np.float64), channels) for x in (reading.mean, reading.deviation))
    if channels == 1:
        mean, deviation = np.mean(reading.mean, keepdims=True), np.mean(reading.deviation, keepdims=True)
    scaled = kernel / deviation[None, :, None, None]
    shift = np.einsum("dcyx,c->d", scaled, 0.5 - mean)
    changed.append(f"grey levels of mean {_numbers(mean)} and deviation {_numbers(deviation)} taken into the tokenizer")
    return {
        "kernel": (scaled.sum(axis=1) / 2).reshape(len(kernel), -1).T.astype(np.float32),
        "bias": (outside["patch_embed.proj.bias"] + shift).astype(np.float32),
    }


def _tokens(outside: State, shape: Architecture, reading: Reading, changed: list[str], where: str) -> Params:
    """CLS and registers with their positions, and the table of the patches on the grid."""
    params: Params = {}
    prefix = np.zeros((1, 1 + shape.registers, shape.width), np.float32)
    if not shape.rope:
        table = outside["pos_embed"].reshape(1, -1, shape.width)
        prefix, grid = split_table(table, shape.registers, where)
        if grid.shape[:2] != shape.grid:
            changed.append(f"positions interpolated from {grid.shape[:2]} to {shape.grid}")
            grid = resized(grid, shape.grid, torch_bicubic="model_type" in reading.settings)
        params["position_2d"] = np.asarray(grid)
    if shape.has_cls:
        params["cls"] = outside["cls_token"].reshape(-1) + prefix[0, 0]
    if shape.registers:
        params["registers"] = outside["reg_token"].reshape(shape.registers, -1) + prefix[0, 1:]
    return params


def resized(grid: Float[np.ndarray, "y x d"], target: tuple[int, int], *, torch_bicubic: bool) -> np.ndarray:
    """A table of positions on another grid, as the library does it that the file is for.

    timm: cubic with a = -0.5 and, shrinking, against aliasing, which is also JAX's. transformers: `interpolate(mode=
    "bicubic")`, a = -0.75 between the four nearest, the rim repeated.
    """
    if not torch_bicubic:
        return np.asarray(jax.image.resize(grid, (*target, grid.shape[-1]), "cubic", antialias=True))
    for axis, length in enumerate(target):
        weights = _bicubic(grid.shape[axis], length)
        grid = np.moveaxis(np.tensordot(weights, grid, (1, axis)), 0, axis)
    return grid.astype(np.float32)


def _bicubic(old: int, new: int, a: float = -0.75) -> Float[np.ndarray, "new old"]:
    at = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        place = np.floor(at) + offset
        far = np.abs(at - place)
        near = (a + 2) * far**3 - (a + 3) * far**2 + 1
        share = np.where(far <= 1, near, a * far**3 - 5 * a * far**2 + 8 * a * far - 4 * a)
        np.add.at(weights, (np.arange(new), place.clip(0, old - 1).astype(int)), share)
    return weights


def _stacked(blocks: Sequence[State]) -> Params:
    """Parameters of all blocks, each leaf one array for all layers."""
    each = []
    for block in blocks:
        params = {ours: (_norm if "norm" in ours else _linear)(block, theirs) for ours, theirs in MODULES.items()}
        each.append(params | {"mlp": {fc: _linear(block, f"mlp.{fc}") for fc in ("fc1", "fc2")}})
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def _pool(outside: State) -> Params:
    """SigLIP's attention pooling, timm's or Hugging Face's."""
    outside = dict(outside)
    if "attn_pool.qkv.weight" in outside:
        for leaf in ("weight", "bias"):
            whole = outside[f"attn_pool.qkv.{leaf}"]
            outside[f"attn_pool.q.{leaf}"], outside[f"attn_pool.kv.{leaf}"] = np.split(whole, [len(whole) // 3])
    mlp = {fc: _linear(outside, f"attn_pool.mlp.{fc}") for fc in ("fc1", "fc2")}
    maps = {
        ours: _linear(outside, f"attn_pool.{theirs}") for ours, theirs in (("q", "q"), ("kv", "kv"), ("out", "proj"))
    }
    return {
        "query": outside["attn_pool.latent"].reshape(-1),
        **maps,
        "norm": _norm(outside, "attn_pool.norm"),
        "mlp": mlp,
    }


def _linear(state: State, name: str) -> Params:
    return {"kernel": np.ascontiguousarray(state[f"{name}.weight"].T), "bias": state[f"{name}.bias"]}


def _norm(state: State, name: str) -> Params:
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _numbers(values: np.ndarray) -> str:
    return "/".join(f"{value:.3g}" for value in dict.fromkeys(values.tolist()))
