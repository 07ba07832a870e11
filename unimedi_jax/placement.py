"""Hints to the compiler on where arrays lie on the mesh; without one (inference, most tests) they do nothing."""

import jax

from unimedi_jax.typing import Array


def over_batch(x: Array) -> Array:
    """Rows over all devices: fsdp gathers weights and never splits activations."""
    return _hint(x, jax.P(("data", "fsdp")))


def everywhere(x: Array) -> Array:
    """The whole array on every device; its gradient is summed over the devices before it is split."""
    return _hint(x, jax.P())


def _hint(x: Array, spec: jax.P) -> Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)
