"""A detection network: YOLOv3's head on the encoder's map, from X-rays to boxes in the pixels of the record."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import numpy as jnp

from unimedi_jax import patches
from unimedi_jax.evaluation import encoder
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.metrics import detection
from unimedi_jax.models import detector
from unimedi_jax.typing import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class BoxFinder:
    """An encoder and its detection head, without their weights."""

    pretrained: Pretrained
    widths: tuple[int, ...]
    lowest: float  # score below which a box is not counted
    overlap: float  # above it the weaker of two boxes goes
    published: bool = False  # MGCA's score: objectness alone

    @functools.cached_property
    def head(self) -> detector.Detector:
        """On the encoder's map."""
        grid = patches.grid(self.pretrained.size("xray"), self.pretrained.patch("xray"))
        return detector.Detector(grid, self.widths)

    def start(self, trial: Trial, *, frozen: bool) -> Network:
        """The network before any step."""
        tokens = jnp.zeros((1, int(np.prod(self.head.grid)), self.pretrained.model.vision.width))
        variables = jax.jit(self.head.init)(jax.random.key(trial.seed), tokens)
        return networks.start(self.pretrained, trial.encoder, variables, frozen=frozen)

    def answers(self, network: Network, tokens: Array, *, train: bool = False) -> tuple[list[Array], PyTree]:
        """Raw answers of the three scales, and the new `stats`."""
        encoded = encoder.states(self.pretrained.model, network.encoder, tokens, "xray")
        return networks.decode(self.head, network, encoded.patches, train=train)

    @functools.cached_property
    def apply(self) -> Callable[[Network, Array], tuple[Array, Array]]:
        """Jitted: places (centre and size in parts of the picture) and scores of all boxes."""

        def run(network: Network, tokens: Array) -> tuple[Array, Array]:
            answers = detector.decode(self.answers(network, tokens)[0], self.head.grid)
            sure = jax.nn.sigmoid(answers.objectness)
            return answers.place, sure if self.published else sure * jax.nn.sigmoid(answers.finding)

        return jax.jit(run)

    def boxes(
        self,
        places: Float[np.ndarray, "n 4"],
        scores: Float[np.ndarray, " n"],
        shape: tuple[int, ...],
        lowest: float = 0.0,
    ) -> tuple[Float[np.ndarray, "k 4"], Float[np.ndarray, " k"]]:
        """The boxes (y0, x0, y1, x1) that count, in pixels of a picture of `shape`, and their scores, best first.

        Of the boxes scored below `lowest` none is among them.
        """
        # More than COCO's hundred never count, and suppression compares every pair.
        best = np.argsort(-scores, kind="stable")[: 4 * detection.MOST]
        best = best[scores[best] >= max(self.lowest, lowest)]
        size = np.array(shape, np.float32)
        centre, half = places[best, :2] * size, places[best, 2:] * size / 2
        corners = np.concatenate([np.clip(centre - half, 0, size), np.clip(centre + half, 0, size)], axis=1)
        # A pixel is one of the network's picture, where MGCA's boxes lie.
        pixel = shape[0] / self.pretrained.size("xray")[0] if self.published else 0.0
        return detection.suppress(corners, scores[best], above=self.overlap, pixel=pixel)
