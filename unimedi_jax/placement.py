"""Hints to the compiler on where arrays lie on the mesh. Without a mesh (inference, most tests) they do nothing."""

from collections.abc import Callable

import jax

from unimedi_jax.typing import Array


def shard_batch(x: Array) -> Array:
    """Spreads the rows over all devices: fsdp gathers weights and never splits activations."""
    return _hint(x, jax.P(("data", "fsdp")))


def replicate(x: Array) -> Array:
    """Puts the whole array on every device; its gradient is summed over the devices before it is split."""
    return _hint(x, jax.P())


def per_device(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` of arrays of samples, run by every device on its own samples: nothing goes between devices.

    For what the compiler cannot divide by itself: loops over samples, and kernels.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    rows = jax.P(("data", "fsdp"))
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)


def _hint(x: Array, spec: jax.P) -> Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)
