"""A segmentation network: SETR-PUP on X-rays, UNETR on volumes, from records to logits on the record's own grid."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import patches, sharding
from unimedi_jax.evaluation import encoder, sliding
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import cuts, dense
from unimedi_jax.models import setr, unetr
from unimedi_jax.typing import Array, Float, PyTree, UInt8

Logits = Float[Array, "b *space c"]
QUARTERS = (0.25, 0.5, 0.75)  # of the depth: the hidden states UNETR taps, blocks 3, 6 and 9 of ViT-B


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """An encoder and its decoder, without their weights."""

    pretrained: Pretrained
    modality: str
    classes: int  # logits: with the background among them, or 1 for the presence of a single structure
    setr_channels: tuple[int, ...]
    unetr_features: int
    unetr_norm: bool
    windows: bool = False  # CTs at the record's resolution in sliding windows

    @functools.cached_property
    def decoder(self) -> setr.SetrPup | unetr.Unetr:
        """From the encoder's tokens to logits at the network's resolution."""
        patch = self.pretrained.patch(self.modality)
        grid = patches.grid(self.pretrained.size(self.modality), patch)
        if self.modality == "xray":
            return setr.SetrPup(self.classes, grid, patch, self.setr_channels)
        return unetr.Unetr(self.classes, grid, patch, self.unetr_features, self.unetr_norm)

    def start(self, trial: Trial, *, frozen: bool) -> Network:
        """Raises UserError where the decoder does not fit the encoder."""
        size = self.pretrained.size(self.modality)
        count = int(np.prod(patches.grid(size, self.pretrained.patch(self.modality))))
        tokens = jnp.zeros((1, count, self.pretrained.model.vision.width))
        inputs = (tokens,) if self.modality == "xray" else (jnp.zeros((1, *size)), [tokens] * len(QUARTERS), tokens)
        try:
            variables = jax.jit(self.decoder.init)(jax.random.key(trial.seed), *inputs)
        except ValueError as error:
            raise UserError(f"the {self.modality} decoder does not fit this checkpoint: {error}") from error
        return networks.start(self.pretrained, trial.encoder, variables, frozen=frozen)

    def logits(self, network: Network, tokens: Array, *, train: bool = False) -> tuple[Logits, PyTree]:
        """Logits of every pixel or voxel at the network's resolution, and the new `stats`."""
        model, ct = self.pretrained.model, self.modality == "ct"
        encoded = encoder.states(model, network.encoder, tokens, self.modality, hidden=ct)
        inputs: tuple[Any, ...] = (encoded.patches,)
        if ct:
            inputs = (encoder.voxels(model, tokens), taps(encoded.hidden), encoded.patches)
        return networks.decode(self.decoder, network, *inputs, train=train)

    def on_record(self, network: Network, tokens: Array, shape: tuple[int, ...]) -> Logits:
        """Logits of whole X-rays or volumes on the record's grid of `shape`."""
        logits, _ = self.logits(network, tokens)
        return jax.image.resize(logits, (len(logits), *shape, logits.shape[-1]), "linear")

    @functools.cached_property
    def apply(self) -> Callable[..., Logits]:
        """Jitted: `on_record`, or with `windows` the logits of windows."""
        if self.windows:
            return jax.jit(lambda network, tokens: self.logits(network, tokens)[0])
        return jax.jit(self.on_record, static_argnames="shape")

    def predict(self, network: Network, pixels: np.ndarray, rows: int) -> Float[np.ndarray, "b *space c"]:
        """Logits of records, X-rays (b, y, x) or volumes (b, z, y, x), on their grid; `rows` at a time."""
        if self.windows:
            return np.stack([self.in_windows(network, volume, rows) for volume in pixels])
        size, patch = self.pretrained.size(self.modality), self.pretrained.patch(self.modality)
        tokens = patches.patchify(np.stack([dense.whole(one, size) for one in pixels]), patch)
        return batched(functools.partial(self.apply, shape=pixels.shape[1:]), network, tokens, rows, self.pretrained)

    def in_windows(self, network: Network, volume: np.ndarray, rows: int) -> Float[np.ndarray, "z y x c"]:
        """Logits of one volume at its own resolution, blended from overlapping windows, `rows` at a time.

        Air stands around a volume that is smaller than a window.
        """
        size, patch, mesh = self.pretrained.size("ct"), self.pretrained.patch("ct"), self.pretrained.mesh

        def logits(windows: np.ndarray) -> np.ndarray:
            return np.asarray(self.apply(network, sharding.put_batch(patches.patchify(windows, patch), mesh)))

        room = tuple(np.maximum(volume.shape, size).tolist())
        whole = cuts.window(volume, tuple(slice(0, n) for n in volume.shape), room, cuts.OUTSIDE["volume"])
        before = [(wide - n) // 2 for wide, n in zip(room, volume.shape, strict=True)]
        inside = tuple(slice(at, at + n) for at, n in zip(before, volume.shape, strict=True))
        return sliding.predict(whole, size, logits, rows=rows)[inside]


def taps(hidden: Float[Array, "depth b n d"]) -> list[Float[Array, "b n d"]]:
    """The hidden states that UNETR's decoder takes."""
    return [hidden[max(1, round(share * len(hidden))) - 1] for share in QUARTERS]


def batched(
    function: Callable[..., Any], network: Network, tokens: np.ndarray, rows: int, pretrained: Pretrained
) -> Any:
    """What a jitted function makes of tokens, `rows` at a time, as host arrays; the last batch is filled up."""
    parts = []
    for start in range(0, len(tokens), rows):
        part = np.arange(start, start + rows).clip(max=len(tokens) - 1)
        parts.append(jax.device_get(function(network, sharding.put_batch(tokens[part], pretrained.mesh))))
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(tokens)], *parts)


def decide(logits: Float[Array, "*space c"]) -> UInt8[Array, "*space"]:
    """The most probable class; of a single logit whether it is positive. Of JAX's arrays and of numpy's."""
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(np.uint8)
    return logits.argmax(axis=-1).astype(np.uint8)
