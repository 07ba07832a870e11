"""UNETR on crops of CTs at their own resolution: from voxels to logits of whole scans in overlapping windows."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import patches, sharding
from unimedi_jax.evaluation import encoder, sliding
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.segmenter import QUARTERS, Logits, taps
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import crops as cut
from unimedi_jax.models import unetr
from unimedi_jax.typing import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class CropSegmenter:
    """An encoder and UNETR's decoder on crops, without their weights."""

    pretrained: Pretrained
    classes: int  # logits: with the background among them, or 1 for the presence of a single structure
    features: int
    norm: bool  # of the encoder's states
    size: tuple[int, ...]  # of a crop, (z, y, x)
    window_hu: tuple[float, ...]
    overlap: float

    @functools.cached_property
    def decoder(self) -> unetr.Unetr:
        """Raises UserError for crops that the encoder's patches do not divide."""
        patch = self.pretrained.model.volume_patch
        try:
            return unetr.Unetr(self.classes, patches.grid(self.size, patch), patch, self.features, self.norm)
        except ValueError as error:
            raise UserError(f"the crop {self.size} does not fit this checkpoint: {error}") from error

    def start(self, trial: Trial, *, frozen: bool) -> Network:
        """Raises UserError where the decoder does not fit the encoder."""
        tokens = jnp.zeros((1, int(np.prod(self.decoder.grid)), self.pretrained.model.vision.width))
        try:
            inputs = jnp.zeros((1, *self.size)), [tokens] * len(QUARTERS), tokens
            variables = jax.jit(self.decoder.init)(jax.random.key(trial.seed), *inputs)
        except ValueError as error:
            raise UserError(f"the ct decoder does not fit this checkpoint: {error}") from error
        return networks.start(self.pretrained, trial.encoder, variables, frozen=frozen)

    def logits(self, network: Network, crops: Float[Array, "b z y x"], *, train: bool = False) -> tuple[Logits, PyTree]:
        """Logits of every voxel of crops in [0, 1], and the new `stats`; the network takes [-1, 1]."""
        pixels = 2 * crops - 1
        encoded = encoder.states_of_crops(self.pretrained.model, network.encoder, pixels)
        return networks.decode(self.decoder, network, pixels, taps(encoded.hidden), encoded.patches, train=train)

    @functools.cached_property
    def apply(self) -> Callable[[Network, Array], Logits]:
        """Jitted: the logits of windows."""
        return jax.jit(lambda network, crops: self.logits(network, crops)[0])

    def predict(self, network: Network, volume: cut.Volume, rows: int) -> Float[np.ndarray, "z y x c"]:
        """Logits of a whole CT in HU on its own grid, `rows` windows at a time; background outside its foreground."""
        box = cut.foreground(volume, self.window_hu[0])
        inner = cut.scaled(volume[box], self.window_hu)
        outside = cut.margins(inner.shape, self.size)
        blended = sliding.predict(
            np.pad(inner, outside),
            self.size,
            functools.partial(self._windows, network),
            overlap=self.overlap,
            rows=rows,
        )
        whole = np.zeros((*volume.shape, self.classes), np.float32)
        whole[..., 0] = 1.0 if self.classes > 1 else -1.0
        whole[box] = blended[tuple(slice(a, a + n) for (a, _), n in zip(outside, inner.shape, strict=True))]
        return whole

    def _windows(self, network: Network, windows: Float[np.ndarray, "b z y x"]) -> np.ndarray:
        return np.asarray(self.apply(network, sharding.put_batch(windows, self.pretrained.mesh)))
