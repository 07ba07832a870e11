"""MGCA's protocol of classification beside ours: its linear classifier, trained as its code trains it."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from unimedi_jax.config.recipes import FitConfig
from unimedi_jax.evaluation import draws, fit
from unimedi_jax.evaluation import network as networks
from unimedi_jax.evaluation.fine_tuning import FineTuning
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.input.mgca_augmentation import ToLabelled

JITTERED = "chexpert"  # the set that is augmented as MoCo v2 does; RSNA and COVIDx are cropped alone


@dataclasses.dataclass(frozen=True)
class Linear(FineTuning):
    """A linear layer on the frozen encoder, for `fit.train`: AdamW, augmentation in every step, stop by the loss."""

    draw = staticmethod(functools.partial(draws.published, rounded=True))

    @property
    def recipe(self) -> FitConfig:
        return self.config.mgca

    @property
    def keys(self) -> fit.Keys:
        return fit.keys("mgca")

    @property
    def sampler(self) -> Callable[..., dict[str, np.ndarray]]:
        size, patch = self.pretrained.size("xray"), self.pretrained.patch("xray")
        jittered = self.dataset.contract["source"].get("kind") == JITTERED
        return ToLabelled(size, patch, jittered=jittered, tells_lateral=self.pretrained.model.lateral_type)

    def start(self, trial: Trial) -> Network:
        """The layer as PyTorch starts one: weights and bias uniform within 1 / sqrt(width)."""
        width, count = self.pretrained.model.vision.width, len(self.dataset.contract["labels"])
        keys = jax.random.split(jax.random.key(trial.seed))
        limit = width**-0.5
        shapes = {"weights": (width, count), "bias": (count,)}
        head = {
            name: jax.random.uniform(key, shape, minval=-limit, maxval=limit)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return networks.start(self.pretrained, trial.encoder, {"params": head}, frozen=True)

    def arrays(self, network: Network) -> dict[str, np.ndarray]:
        """The layer as the arrays of a linear probe, whose features are not standardised."""
        head = jax.device_get(network.params["decoder"])
        width, count = head["weights"].shape
        plain = {"mean": np.zeros(width), "scale": np.ones(width), "fitted": np.ones(count, bool)}
        return {"weights": head["weights"], "bias": head["bias"], **plain}
