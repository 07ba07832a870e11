"""LoRA (Hu et al., arXiv 2106.09685, eq. 3): W + (alpha / r) A B, where W stays as it is and B begins at zero.

Adapters are a tree beside the parameters, under KEY, along the paths of the kernels that they change: {"a": (in, r),
"b": (r, out), "scale": alpha / r}, with a leading axis where the kernel is a stack of layers, and with "layers", the
numbers of those adapted, where not all of them are. `merge` is the only place where both meet: training, evaluation
and export run it, and the models know nothing of it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float, Int, Key, Params, PyTree

KEY = "lora"
TRAINED = ("a", "b")  # of an adapter; its scale and its layers stay
Adapter = dict[str, Array]


def merge(params: Params) -> Params:
    """Parameters as a network takes them: without adapters, which are added to their kernels.

    Parameters without adapters are returned as they are. A merged kernel is the same to the bit wherever it is merged.
    """
    return _merge(params) if KEY in params else params


def create(kernel: Any, rank: int, alpha: float, key: Key[Array, ""], layers: Sequence[int] | None = None) -> Adapter:
    """An adapter that changes nothing yet: A normal with a variance of 1 / in, B zero.

    `kernel` is an array (in, out) or what stands for one; with `layers` (all, in, out), of which these are adapted.
    """
    *stack, wide, narrow = kernel.shape
    lead = (len(layers),) if layers is not None else ()
    adapter = {
        "a": jax.random.normal(key, (*lead, wide, rank)) * wide**-0.5,
        "b": jnp.zeros((*lead, rank, narrow)),
        "scale": jnp.asarray(alpha / rank, jnp.float32),
    }
    if layers is not None and len(layers) < stack[0]:
        adapter["layers"] = jnp.asarray(layers, jnp.int32)
    return adapter


def kernels_of(tree: PyTree, adapters: PyTree) -> PyTree:
    """The kernels that adapters change, by their paths. Raises KeyError where a tree lacks one."""
    if not isinstance(tree, Mapping):
        return tree
    return {name: kernels_of(tree[name], part) for name, part in adapters.items()}


@jax.jit
def _merge(params: Params) -> Params:
    own = {name: part for name, part in params.items() if name != KEY}
    return _add(own, params[KEY])


def _add(tree: PyTree, adapters: Mapping[str, Any]) -> PyTree:
    if not isinstance(tree, Mapping):
        return _adapted(tree, **adapters)
    return {name: _add(part, adapters[name]) if name in adapters else part for name, part in tree.items()}


def _adapted(
    kernel: Float[Array, "*layers n m"],
    a: Float[Array, "*adapted n r"],
    b: Float[Array, "*adapted r m"],
    scale: Float[Array, ""],
    layers: Int[Array, " adapted"] | None = None,
) -> Float[Array, "*layers n m"]:
    # Barriers: what stands around a merge must not change how its sums are rounded. Full precision on all devices.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    delta = jax.lax.optimization_barrier(product(a, b))
    delta = jax.lax.optimization_barrier(scale * delta)
    merged = kernel + delta if layers is None else kernel.at[layers].add(delta)
    return jax.lax.optimization_barrier(merged)
