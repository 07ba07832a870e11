"""Means as (sum, weight) pairs, so that they stay right under masks, padding and several hosts."""

from flax import struct
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float


@struct.dataclass
class Mean:
    """A mean that can still be merged: `a + b` is the mean over both."""

    total: Array
    weight: Array

    @classmethod
    def of(cls, values: Float[Array, "..."], mask: Array | None = None) -> "Mean":
        """Mean of `values` where `mask` is True; everywhere without one."""
        values = values.astype(jnp.float32)
        weights = jnp.ones_like(values) if mask is None else jnp.broadcast_to(mask, values.shape)
        weights = weights.astype(jnp.float32)
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Array:
        """The mean; 0/0, the mean of nothing, is NaN."""
        return self.total / self.weight
