"""Hints to the compiler on where arrays lie on the mesh; without one (inference, most tests) they do nothing."""

from collections.abc import Callable

import jax

from unimedi_jax.typing import Array


def shard_batch(x: Array) -> Array:
    """Rows over all devices: fsdp gathers weights and never splits activations."""
    return _hint(x, jax.P(("data", "fsdp")))


def replicate(x: Array) -> Array:
    """The whole array on every device; its gradient is summed over the devices before it is split."""
    return _hint(x, jax.P())


def each_its_own(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` of arrays of samples, on every device of the samples that it holds: nothing goes between devices.

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
