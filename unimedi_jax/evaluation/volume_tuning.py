"""Fine-tuning of classifiers of CTs at a size of their own: CC-CCII (HKBU, VoCo) and RICORD (UniMiSS)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import patches
from unimedi_jax.config.recipes import FitConfig, VolumesConfig
from unimedi_jax.evaluation import encoder, fit, native
from unimedi_jax.evaluation.downstream import Part
from unimedi_jax.evaluation.fine_tuning import FineTuning
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.input import crops, volume_samples
from unimedi_jax.metrics import classification
from unimedi_jax.typing import Array, Float, PyTree

BEST = {"auroc": "auroc/macro", "accuracy": "accuracy/macro"}  # what is highest in validation at the best epoch


@dataclasses.dataclass(frozen=True)
class VolumeTuning(FineTuning):
    """CLS of the volume's tokens alone under a linear head, the whole network trained, for `fit.train`."""

    @property
    def volumes(self) -> VolumesConfig:
        """The recipe of the protocol."""
        return self.config.volumes

    @property
    def recipe(self) -> FitConfig:
        return self.volumes.fit

    @property
    def keys(self) -> fit.Keys:
        return fit.keys(self.config.protocol)

    def check(self) -> None:
        """Raises UserError for a size that the encoder's patches do not divide, or CTs made by other rules."""
        try:
            patches.grid(self.volumes.size, self.pretrained.model.volume_patch)
        except ValueError as error:
            name = f"config.{self.config.protocol}.size={self.volumes.size}"
            raise UserError(f"{name} does not fit this checkpoint: {error}") from error
        native.check(self.pretrained, self.dataset)

    @property
    def sampler(self) -> volume_samples.ToVolume:
        recipe = self.volumes
        changes = volume_samples.Changes(*(getattr(recipe, name) for name in volume_samples.Changes._fields))
        if crops.name_sides(self.dataset.contract["labels"]):
            changes = changes._replace(flips=0.0)
        return volume_samples.ToVolume(recipe.size, recipe.window_hu, recipe.share, changes, recipe.standardise)

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        return self.dataset.source("ct", split, ("volume", "labels"))

    def logits(self, network: Network, batch: PyTree) -> Float[Array, "b c"]:
        """Of every label or class, from volumes in the network's scale."""
        head = network.params["decoder"]
        cls = encoder.states_of_crops(self.pretrained.model, network.encoder, batch["tokens"]).cls
        return cls.astype(jnp.float32) @ head["weights"] + head["bias"][None]

    def score(self, network: Network) -> float:
        """What the published code stops by."""
        if self.volumes.best == "loss":
            return super().score(network)
        labels = self.labels["val"]
        names = self.dataset.contract["labels"]
        measured = classification.measure(self.probabilities("val", network), labels, names, one_of=self.one_of)
        return measured[BEST[self.volumes.best]]

    def draw_repeated(self, labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
        """The rows of a share, over and over until an epoch has as many as the recipe asks for at least."""
        rows = self.draw(labels, share, seed=seed)
        return np.tile(rows, max(1, math.ceil(self.volumes.least / len(rows))))

    def measure(self, trial: Trial, part: Part) -> None:
        """Trains and tests the network of a trial; no head is saved, for `predict` reads at the encoder's own size."""
        network = fit.train(self, trial, self.draw_repeated)
        self.saving.measured(part, trial, self.probabilities("test", network))
