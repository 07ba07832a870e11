"""One table between UniMedI's parameters and PyTorch's names: timm's for the ViT, Hugging Face's for BERT.

The same table takes weights in and out; what PyTorch has no name for keeps ours. Only axes are moved, never a number
changed, so out and in again gives the same bits.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from data.errors import UserError
from unimedi_jax import trees
from unimedi_jax.models import towers
from unimedi_jax.typing import PyTree

State = dict[str, np.ndarray]  # PyTorch's flat dictionary of weights

# Our module, PyTorch's, and what it is; {} counts the layers that are one stacked array here.
MODULES = (
    ("vision/patch_2d", "vision.patch_embed.proj", "conv_2d"),
    ("vision/patch_3d", "vision.patch_embed_3d.proj", "conv_3d"),
    *(
        (f"vision/subpatch_{d}/{fc}", f"vision.subpatch_embed{end}.{fc}", "linear")
        for d, end in (("2d", ""), ("3d", "_3d"))
        for fc in ("fc1", "fc2", "out")
    ),
    ("vision/trunk/blocks/norm1", "vision.blocks.{}.norm1", "norm"),
    ("vision/trunk/blocks/attention/qkv", "vision.blocks.{}.attn.qkv", "linear"),
    ("vision/trunk/blocks/attention/out", "vision.blocks.{}.attn.proj", "linear"),
    ("vision/trunk/blocks/norm2", "vision.blocks.{}.norm2", "norm"),
    ("vision/trunk/blocks/mlp/fc1", "vision.blocks.{}.mlp.fc1", "linear"),
    ("vision/trunk/blocks/mlp/fc2", "vision.blocks.{}.mlp.fc2", "linear"),
    ("vision/trunk/norm", "vision.norm", "norm"),
    ("report/words", "report.embeddings.word_embeddings", "embedding"),
    ("report/positions", "report.embeddings.position_embeddings", "embedding"),
    ("report/norm", "report.embeddings.LayerNorm", "norm"),
    ("report/layers/attention/qkv", "report.encoder.layer.{}.attention.self.query|key|value", "linear"),
    ("report/layers/attention/out", "report.encoder.layer.{}.attention.output.dense", "linear"),
    ("report/layers/norm1", "report.encoder.layer.{}.attention.output.LayerNorm", "norm"),
    ("report/layers/mlp/fc1", "report.encoder.layer.{}.intermediate.dense", "linear"),
    ("report/layers/mlp/fc2", "report.encoder.layer.{}.output.dense", "linear"),
    ("report/layers/norm2", "report.encoder.layer.{}.output.LayerNorm", "norm"),
    ("slice_baseline", "slice_baseline", "running_mean"),
    *(
        (f"{head}/{fc}", f"{head}.{fc}", "linear")
        for head in ("project_image", "project_report", "head_cls", "head_patch")
        for fc in ("fc", "fc1", "fc2", "fc3")
    ),
    *(
        (f"{head}/{norm}{own}", f"{head}.{norm}{own}", "batch_norm")
        for head in ("project_image", "project_report")
        for norm in ("norm1", "norm2")
        for own in ("", "_xray", "_ct")
    ),
)
# Arrays that stand alone. [cls] and [grid] are parts of timm's one table of positions; registers have none here.
ARRAYS = (
    ("vision/cls", "vision.cls_token", "token"),
    ("vision/registers", "vision.reg_token", "tokens"),
    ("vision/position_cls", "vision.pos_embed[cls]", "token"),
    ("vision/position_2d", "vision.pos_embed[grid]", "grid"),
    ("vision/position_3d", "vision.pos_embed_3d", "grid"),
    ("vision/mask_token", "vision.mask_token", "token"),
    ("vision/type_2d", "vision.type_2d", "token"),
    ("vision/type_3d", "vision.type_3d", "token"),
    ("vision/type_lateral", "vision.type_lateral", "token"),
    ("vision/depth_of_slice", "vision.depth_of_slice", "same"),
    ("report/segments", "report.embeddings.token_type_embeddings.weight", "same"),
    ("head_cls/last_layer", "head_cls.last_layer.weight", "linear"),
    ("head_patch/last_layer", "head_patch.last_layer.weight", "linear"),
)
# Leaves of a module: ours with its collection, PyTorch's, the layout.
_BIAS, _SCALE = ("params", "bias", "bias", "same"), ("params", "scale", "weight", "same")
_STATISTICS = ("batch_stats", "mean", "running_mean", "same"), ("batch_stats", "var", "running_var", "same")
LEAVES = {
    **{kind: (("params", "kernel", "weight", kind), _BIAS) for kind in ("linear", "conv_2d", "conv_3d")},
    "norm": (_SCALE, _BIAS),
    "embedding": (("params", "embedding", "weight", "same"),),
    "batch_norm": (_SCALE, _BIAS, *_STATISTICS),
    "running_mean": (("batch_stats", "mean", "mean", "same"),),
}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One row of the table, down to arrays."""

    ours: str
    theirs: str  # with {} for the layer, a|b|c where ours is several of theirs side by side
    layout: str

    @property
    def stacked(self) -> bool:
        """Whether ours is one array for all layers."""
        return "{}" in self.theirs

    def names(self, layer: int) -> list[str]:
        """PyTorch's names of the layer's arrays."""
        start, bar, end = self.theirs.partition("query|key|value")
        parts = ("query", "key", "value") if bar else ("",)
        return [f"{start}{part}{end}".format(layer) for part in parts]


def _table() -> Iterator[Leaf]:
    for ours, theirs, kind in MODULES:
        for collection, our_leaf, their_leaf, layout in LEAVES[kind]:
            yield Leaf(f"{collection}/{ours}/{our_leaf}", f"{theirs}.{their_leaf}", layout)
    for ours, theirs, layout in ARRAYS:
        yield Leaf(f"params/{ours}", theirs, layout)


TABLE = {leaf.ours: leaf for leaf in _table()}


def _leaf(name: str) -> Leaf | None:
    """The table's row of one of our arrays; None for a head that only another objective trains."""
    return TABLE.get(name) if name.startswith("params/head_") else TABLE[name]


def to_torch(variables: PyTree, model: towers.UniMedI) -> State:
    """Every array of {"params", "batch_stats"} under PyTorch's names and in its layouts, float32.

    Heads of other objectives than UniMedI's have no name there and stay behind.
    """
    state: State = {}
    for name, array in zip(trees.names(variables), jax.tree.leaves(variables), strict=True):
        if (leaf := _leaf(name)) is None:
            continue
        array = np.asarray(array, np.float32)
        for layer, part in enumerate(array if leaf.stacked else array[None]):
            names = leaf.names(layer)
            for key, piece in zip(names, np.split(part, len(names), axis=-1), strict=True):
                state[key] = np.ascontiguousarray(_out(piece, leaf.layout, model))
    return join_positions(state)


def from_torch(state: Mapping[str, np.ndarray], template: PyTree) -> tuple[PyTree, list[str]]:
    """`template` with the arrays of `state` in their places, and the template's names that `state` lacks.

    A leaf that is lacking keeps the template's value, as does one that has no name in PyTorch.

    Raises:
        UserError: an array of another shape.
    """
    state = split_positions(state)
    lacking: list[str] = []

    def fill(name: str, old: Any) -> Any:
        if (leaf := _leaf(name)) is None:
            return old
        keys = [leaf.names(layer) for layer in range(old.shape[0] if leaf.stacked else 1)]
        if absent := [key for group in keys for key in group if key not in state]:
            lacking.extend(absent)
            return old
        shape = tuple(old.shape[1:] if leaf.stacked else old.shape)
        stacked = []
        for group in keys:
            pieces = [_back(np.asarray(state[key], np.float32), leaf.layout, shape) for key in group]
            whole = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
            if whole.shape != shape:
                raise UserError(
                    f"{group[0]} has the shape {state[group[0]].shape}, which does not fit this model's "
                    f"{name} {shape}: choose the sizes in config.model that the weights were made for"
                )
            stacked.append(whole)
        return np.stack(stacked) if leaf.stacked else stacked[0]

    return trees.map_with_name(fill, template), lacking


def known(template: PyTree) -> set[str]:
    """PyTorch's names of all arrays of a tree that have one."""
    result: set[str] = set()
    for name, array in zip(trees.names(template), jax.tree.leaves(template), strict=True):
        if (leaf := _leaf(name)) is None:
            continue
        for layer in range(array.shape[0] if leaf.stacked else 1):
            result.update(leaf.names(layer))
    return result


def join_positions(state: State) -> State:
    """timm keeps the position of CLS as row 0 of one table; rows for its registers follow, which are zero here."""
    state = dict(state)
    cls, grid = (state.pop(f"vision.pos_embed[{part}]", None) for part in ("cls", "grid"))
    if grid is not None:
        of_registers = np.zeros_like(state.get("vision.reg_token", grid[:, :0]))
        state["vision.pos_embed"] = np.concatenate([cls, of_registers, grid], axis=1)
    return state


def split_positions(state: Mapping[str, np.ndarray]) -> State:
    """The inverse of `join_positions`; a register's position joins the register, to which it is only ever added."""
    state = dict(state)
    if (table := state.pop("vision.pos_embed", None)) is not None:
        registers = state.get("vision.reg_token", table[:, :0])
        cls, own, grid = np.split(table, [1, 1 + registers.shape[1]], axis=1)
        state |= {"vision.pos_embed[cls]": cls, "vision.pos_embed[grid]": grid}
        if registers.shape[1]:
            state["vision.reg_token"] = registers + own
    return state


def _out(x: np.ndarray, layout: str, model: towers.UniMedI) -> np.ndarray:
    if layout == "linear":
        return x.T
    if layout in ("conv_2d", "conv_3d"):  # voxels in raster order, as the kernel of a convolution has them
        return x.T.reshape(-1, 1, *(model.image_patch if layout == "conv_2d" else model.volume_patch))
    if layout in ("token", "tokens", "grid"):
        return x.reshape(1, -1, x.shape[-1])
    return x


def _back(x: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    if layout == "linear":
        return x.T
    if layout in ("conv_2d", "conv_3d"):
        return x.reshape(len(x), -1).T
    if (layout == "token" and x.shape == (1, 1, *shape)) or (layout == "tokens" and x.shape == (1, *shape)):
        return x.reshape(shape)
    if layout == "grid" and x.ndim == 3 and x.shape[0] == 1 and x.shape[1] == np.prod(shape[:-1]):
        return x.reshape(*shape[:-1], x.shape[-1])
    return x
