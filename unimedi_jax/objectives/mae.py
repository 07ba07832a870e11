"""Masked autoencoders: the encoder sees a quarter of an image, a light decoder restores the rest.

He et al., arXiv 2111.06377, section 3: tokens are dropped at random (75 %) after they got their positions; the ViT
encodes CLS and the visible tokens; a decoder takes them and a mask token at every other place, all with positions of
its own, and predicts the pixels of each patch. Each patch's target is normalised by its own mean and standard deviation
(`norm_pix`), the loss is the squared error over the dropped patches alone. Reports are not used.

Differences: X-rays and volumes share encoder, decoder and mask token; the positions in the decoder and the linear map
to pixels are each modality's own. Of a CT, whole patches of the volume are dropped. The encoder's positions are the
tower's learnt tables, fixed sines only in the decoder (and over periods of `vision.sincos`). The number of visible
tokens is rounded up. The crop is the pipeline's, never mirrored.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import selection
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import linear, transformer, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, PyTree, Step


class EncodedVisible(NamedTuple):
    """The encoder's output for the visible tokens, and where these belong."""

    cls: Float[Array, "b d"]
    patches: Float[Array, "b k d"]
    ranks: Int[Array, "b n"]  # of all tokens of the image in a random order, whose first k are visible

    @property
    def dropped(self) -> Bool[Array, "b n"]:
        """The tokens that the encoder does not see."""
        return self.ranks >= self.patches.shape[1]


def insert_mask_tokens(
    visible: Float[Array, "b k d"], mask_token: Float[Array, " d"], ranks: Int[Array, "b n"]
) -> Float[Array, "b n d"]:
    """The visible tokens back at their places in the image, the mask token everywhere else."""
    batch, k, width = visible.shape
    masks = jnp.broadcast_to(mask_token.astype(visible.dtype), (batch, ranks.shape[1] - k, width))
    return selection.gather_tokens(jnp.concatenate([visible, masks], axis=1), ranks)


def normalise_patches(pixels: Float[Array, "b n v"], epsilon: float = 1e-6) -> Float[Array, "b n v"]:
    """Every patch with mean 0 and variance 1 over its own pixels; a flat one is 0."""
    centred = pixels - jnp.mean(pixels, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)


def masked_squared_error(
    predicted: Float[Array, "b n v"], target: Float[Array, "b n v"], mask: Bool[Array, "b n"]
) -> Float[Array, " b"]:
    """The mean squared error over the pixels of the masked patches, for every sample."""
    errors = jnp.mean(jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32)), axis=-1)
    return masked.masked_mean(errors, mask)


class Decoder(nn.Module):
    """Visible tokens, CLS first, to the pixels of all patches of an X-ray or a volume."""

    trunk: vision.Trunk
    grids: Mapping[str, tuple[int, ...]]  # modality -> tokens along its axes
    pixels: Mapping[str, int]  # modality -> pixels of a patch

    @nn.compact
    def __call__(self, modality: str, x: Float[Array, "b m d"], ranks: Int[Array, "b n"]) -> Float[Array, "b n v"]:
        width, dtype = self.trunk.width, self.trunk.dtype
        init = transformer.init(width)
        dense = dict(dtype=dtype, kernel_init=init)
        x = linear.Dense(width, name="embed", **dense)(x)
        tokens = insert_mask_tokens(x[:, 1:], self.param("mask_token", init, (width,)), ranks)
        positions = vision.sincos(self.grids[modality], width).reshape(1, -1, width)
        x = jnp.concatenate([x[:, :1], tokens + positions.astype(dtype)], axis=1)
        x, _, _ = self.trunk(x, False)
        return linear.Dense(self.pixels[modality], name=f"pixels_{modality}", **dense)(x[:, 1:]).astype(jnp.float32)


def encode_visible(
    student: UniMedI, modality: str, tokens: Array, mask_ratio: float, lateral: vision.Lateral = None
) -> EncodedVisible:
    """A random share of the tokens is dropped, the rest encoded."""
    embedded = common.embed(student, modality, tokens, lateral)
    ranks = masked.random_ranks(student.make_rng("draws"), *embedded.shape[:2])
    visible = jnp.argsort(ranks, axis=-1)[:, : selection.num_kept(ranks.shape[1], mask_ratio)]
    encoded = student.encode(selection.gather_tokens(embedded, visible))
    return EncodedVisible(encoded.cls, encoded.patches, ranks)


def reconstruction_loss(
    student: UniMedI, modality: str, tokens: Array, encoded: EncodedVisible, norm_pix: bool
) -> Float[Array, " b"]:
    """The decoder's error on the dropped patches, for every sample."""
    x = jnp.concatenate([encoded.cls[:, None], encoded.patches], axis=1)
    predicted = student.head["decoder"](modality, x, encoded.ranks)
    pixels = student.pixels(modality, tokens)
    return masked_squared_error(predicted, normalise_patches(pixels) if norm_pix else pixels, encoded.dropped)


class Objective(settings.MAE, base.Objective):
    """Dropped patches of X-rays, of volumes, or of both."""

    uses_reports = False
    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """The decoder of both modalities."""
        return {"decoder": make_decoder(self, model)}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Most patches of every image are dropped and restored from the others."""
        losses = {}
        for modality in common.modalities(batch):
            tokens = batch[modality]["tokens"]
            encoded = encode_visible(student, modality, tokens, self.mask_ratio, common.lateral(batch, modality))
            losses[modality] = reconstruction_loss(student, modality, tokens, encoded, self.norm_pix)
        return base.LossTerms({"mim": losses})


def make_decoder(sizes: settings.MAE, model: UniMedI) -> Decoder:
    """A decoder of this size for the patches of a model's images and volumes."""
    tower, width = model.vision, sizes.decoder_width
    options = dict(attention=tower.attention, remat=tower.remat, unrolled=tower.unrolled)
    trunk = vision.Trunk(width, sizes.decoder_depth, sizes.decoder_heads, 4 * width, tower.dtype, **options)
    grids = {modality: common.grid(model, modality) for modality in ("xray", "ct")}
    pixels = {modality: math.prod(common.patch(model, modality)) for modality in ("xray", "ct")}
    return Decoder(trunk, grids, pixels)
