"""One set of names, timm's, for ViTs whose files use timm's, Hugging Face's or Meta's own."""

import re
from collections.abc import Mapping

import numpy as np

from data.errors import UserError
from unimedi_jax.convert.names import State

# The kernel of the patches, by which an encoder is known among other towers: timm, then Hugging Face's kinds.
PATCHES = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",  # ViT, DINOv2
    "embeddings.patch_embeddings.weight",  # DINOv3
    "embeddings.patch_embedding.weight",  # SigLIP
)
ALONE = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.register_tokens|register_tokens|storage_tokens": "reg_token",
    r"embeddings\.position_embeddings|embeddings\.position_embedding\.weight": "pos_embed",
    r"embeddings\.patch_embeddings?(?:\.projection)?\.(weight|bias)": r"patch_embed.proj.\1",
    r"(?:layernorm|post_layernorm)\.(weight|bias)": r"norm.\1",
    r"head\.probe": "attn_pool.latent",
    r"head\.attention\.in_proj_(weight|bias)": r"attn_pool.qkv.\1",
    r"head\.attention\.out_proj\.(weight|bias)": r"attn_pool.proj.\1",
    r"head\.layernorm\.(weight|bias)": r"attn_pool.norm.\1",
    r"head\.mlp\.(.+)": r"attn_pool.mlp.\1",
}
BLOCK = re.compile(r"(?:(?:model|encoder)\.)*(?:layers?|blocks)\.(\d+)\.(.+)")
IN_BLOCK = {
    r"(?:layernorm_before|layer_norm1)\.(.+)": r"norm1.\1",
    r"(?:layernorm_after|layer_norm2)\.(.+)": r"norm2.\1",
    r"(?:attention\.attention|attention|self_attn)\.(q|k|v)(?:uery|ey|alue|_proj)\.(.+)": r"attn.\1.\2",
    r"attn\.(q|k|v)_(?:proj\.)?(weight|bias)": r"attn.\1.\2",
    r"(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.(.+)": r"attn.proj.\1",
    r"(?:layer_scale|gamma_|ls)([12])(?:\.lambda1|\.gamma)?": r"ls\1",
    r"intermediate\.dense\.(.+)": r"mlp.fc1.\1",
    r"(?:output\.dense|mlp\.down_proj|mlp\.weights_out|mlp\.w3)\.(.+)": r"mlp.fc2.\1",
    r"mlp\.(?:weights_in|w12)\.(.+)": r"mlp.fc1.\1",  # SwiGLU's gate, then what it gates
    r"mlp\.(?:gate_proj|fc1_g|w1)\.(.+)": r"mlp.gate.\1",
    r"mlp\.(?:up_proj|fc1_x|w2)\.(.+)": r"mlp.up.\1",
}
TOP = re.compile(r"(cls_token|reg_token|pos_embed|patch_embed\.proj\.\w+|norm\.\w+|attn_pool\..+)")
# Left out, it would be another function; whatever else has no place here is skipped by name.
REFUSED = re.compile(r"dist_token|(norm_pre|pre_layrnorm|pre_layernorm)\.")
PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")  # of a block, each with weight and bias


def to_timm(state: State, where: str) -> tuple[State, list[State], list[str]]:
    """Arrays outside the blocks by timm's names, those of each block, and the names of what was skipped.

    Queries, keys and values are one array, as are SwiGLU's two halves; LayerScales are in the maps before them.

    Raises:
        UserError: no ViT, a part of it that is not known, or one that is missing.
    """
    prefix = _prefix(state)
    if prefix is None:
        raise UserError(f"{where} holds no ViT by the names of timm, Hugging Face or Meta: no {PATCHES[0]} or the like")
    outside: State = {}
    inside: dict[int, State] = {}
    skipped = []
    for key, value in state.items():
        name = key.removeprefix(prefix) if key.startswith(prefix) else ""
        if REFUSED.match(name):
            raise UserError(f"{where} has {key}: its ViT computes with a part that is not known here")
        if match := BLOCK.fullmatch(name):
            inside.setdefault(int(match[1]), {})[_renamed(match[2], IN_BLOCK)] = value
        elif TOP.fullmatch(renamed := _renamed(name, ALONE)):
            outside[renamed] = value
        else:
            skipped.append(key)
    blocks = [_whole(inside.get(number, {}), number, where) for number in range(len(inside))]
    needed = ("patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias")
    if missing := [name for name in needed if name not in outside]:
        raise UserError(f"{where} lacks {missing[0]} of its ViT: it is incomplete, or of another architecture")
    return outside, blocks, skipped


def position_pixels(state: State) -> int:
    """Pixels of the pictures that a file's table of positions was made for; 0 where it has none."""
    prefix = _prefix(state)
    names = ("pos_embed", "embeddings.position_embeddings", "embeddings.position_embedding.weight")
    table = None if prefix is None else next((state[prefix + name] for name in names if prefix + name in state), None)
    if table is None:
        return 0
    patch = next(state[prefix + name].shape[-1] for name in PATCHES if prefix + name in state)
    return patch * int(np.sqrt(table.shape[-2]))  # CLS and registers add less than a row of the grid


def _prefix(state: Mapping[str, np.ndarray]) -> str | None:
    """What stands before an encoder's names; None where there is no encoder."""
    for name in PATCHES:
        for key in state:
            if key == name or key.endswith(f".{name}"):
                return key[: -len(name)]
    return None


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for pattern, ours in table.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return name


def _whole(block: State, number: int, where: str) -> State:
    """A block as the arrays of PARTS."""
    block = dict(block)
    if "attn.q.weight" in block:
        block["attn.qkv.weight"] = np.concatenate([block.pop(f"attn.{part}.weight") for part in "qkv"])
    if "attn.qkv.weight" in block:
        width = len(block["attn.qkv.weight"]) // 3
        apart = [
            block.pop(f"attn.{part}.bias", np.zeros(width, np.float32)) for part in "qkv"
        ]  # DINOv3's keys have none
        block.setdefault("attn.qkv.bias", np.concatenate(apart))
        block["attn.qkv.bias"] = block["attn.qkv.bias"] * np.nan_to_num(block.pop("attn.qkv.bias_mask", np.ones(1)))
    for leaf in ("weight", "bias"):
        halves = [block.pop(f"mlp.{part}.{leaf}") for part in ("gate", "up") if f"mlp.{part}.{leaf}" in block]
        if halves:  # of SwiGLU; without a gate the one map there is
            block[f"mlp.fc1.{leaf}"] = np.concatenate(halves)
    # gamma (W x + b) = (gamma W) x + gamma b: a LayerScale needs no parameter of its own.
    for scale, target in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        if scale in block:
            gamma = block.pop(scale)
            block[f"{target}.weight"] = gamma[:, None] * block[f"{target}.weight"]
            block[f"{target}.bias"] = gamma * block[f"{target}.bias"]
    needed = {f"{part}.{leaf}" for part in PARTS for leaf in ("weight", "bias")}
    if block.keys() != needed:
        missing, more = sorted(needed - block.keys()), sorted(block.keys() - needed)
        problem = f"lacks {missing[0]}" if missing else f"has {more[0]}, a part that is not known here"
        raise UserError(f"{where}: block {number} of its ViT {problem}")
    return block
