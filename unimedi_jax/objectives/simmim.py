"""SimMIM: hide most of an image behind the mask token, and say what its pixels were.

Xie et al., arXiv 2111.09886: random blocks of 32 x 32 pixels, 0.6 of the image, become a learnt vector (section 3.2);
the whole sequence goes through the encoder, and one linear layer gives the pixels of every patch (section 3.3). The
loss is the L1 distance over the hidden pixels alone, eq. 1 of section 3.4. No report is read.

Differences: the encoder is the shared ViT with learnt positions (the paper's ViT also has relative position biases; its
main results are Swin's). `block` counts tokens, 2 of 16 pixels for the paper's 32; of a volume it holds along all
three axes, 2 x 2 x 2 patches. A grid that it does not divide (the demo's 7 x 7) is hidden token by token. Targets lie
in [-1, 1], as the tokenizers take them, and are no colours. Crops are the pipeline's, never mirrored. The CLS after
the last layer has no loss of its own, as in the paper, which pools patches.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, Params, PyTree


def distance(
    predicted: Float[Array, "b n v"], pixels: Float[Array, "b n v"], hidden: Bool[Array, "b n"]
) -> Float[Array, " b"]:
    """Eq. 1: the mean absolute difference over the pixels of the hidden patches, for every sample."""
    each = jnp.mean(jnp.abs(predicted.astype(jnp.float32) - pixels.astype(jnp.float32)), axis=-1)
    return masked.over(each, hidden)


def predict(
    name: str, params: Params, pixels: Float[Array, "b n v"], hidden: Bool[Array, "b n"], *, model: towers.UniMedI
) -> Float[Array, "b n v"]:
    """The pixels of all patches, from those that are not hidden."""
    cells = masked.grid(name, model)
    tokens = model.apply({"params": params}, name, pixels, cells, hidden, method="embed_pixels")
    seen = model.apply({"params": params}, tokens, method="encode")
    return common.through(f"pixels_{name}", params, seen.patches, model=model)


@dataclasses.dataclass(frozen=True)
class Objective(base.Objective):
    """Masked pixels of films, of volumes, or of both."""

    mask_ratio: float = 0.6  # share of the blocks that is hidden
    block: int = 2  # tokens along each axis that are hidden together, where the grid divides

    reads: ClassVar[bool] = False
    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is above 0 and below 1, not {self.mask_ratio}")
        if self.block < 1:
            raise ValueError(f"block is at least 1 token, not {self.block}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """A linear map to pixels and one to voxels."""
        return {
            f"pixels_{name}": heads.Linear(masked.values(name, model), dtype=model.vision.dtype)
            for name in ("xray", "ct")
        }

    def loss(
        self,
        params: Params,
        teacher: Params,
        stats: PyTree,
        batch: Batch,
        key: Key[Array, ""],
        step: Int[Array, ""],
        *,
        model: towers.UniMedI,
    ) -> base.Loss:
        """What is hidden of every image, against what is said of it."""
        keys = common.keys(key, "xray", "ct")
        each = {}
        for name in common.modalities(batch):
            pixels = model.pixels(name, batch[name]["tokens"])
            hidden = masked.hide(keys[name], len(pixels), masked.grid(name, model), self.mask_ratio, self.block)
            each[name] = distance(predict(name, params, pixels, hidden, model=model), pixels, hidden)
        return common.with_total({"mim": each}, {"mim": 1.0}, stats)
