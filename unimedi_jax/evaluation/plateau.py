"""A learning rate that is halved while the validation score stands still, as Keras' ReduceLROnPlateau does it."""

from typing import NamedTuple

import jax
import optax
from jax import numpy as jnp

from unimedi_jax.typing import Array, PyTree

FACTOR, LEAST = 0.5, 1e-3  # of the rate: at each plateau, and at the end
DELTA = 1e-4  # by which a score is better


class Plateau(NamedTuple):
    """What the rate is now, as a share of the recipe's."""

    patience: int  # epochs without a better score
    best: float = -float("inf")
    waited: int = 0
    scale: float = 1.0

    def after(self, score: float) -> "Plateau":
        """After an epoch of this validation score, of which more is better."""
        if score > self.best + DELTA:
            return self._replace(best=score, waited=0)
        if self.waited + 1 < self.patience:
            return self._replace(waited=self.waited + 1)
        return self._replace(waited=0, scale=max(self.scale * FACTOR, LEAST))


class ScaleState(NamedTuple):
    """By what updates are multiplied."""

    rate_scale: Array


def by_state() -> optax.GradientTransformation:
    """Multiplies updates by a number of the optimiser's state, 1 at first, which `set_scale` changes."""

    def update(updates: PyTree, state: ScaleState, params: PyTree | None = None) -> tuple[PyTree, ScaleState]:
        return jax.tree.map(lambda x: x * state.rate_scale, updates), state

    return optax.GradientTransformation(lambda _: ScaleState(jnp.ones(())), update)


def set_scale(state: optax.OptState, scale: float) -> optax.OptState:
    """The state of an optimiser that holds one `by_state`."""
    return optax.tree_utils.tree_set(state, rate_scale=jnp.asarray(scale, jnp.float32))
