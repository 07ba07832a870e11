"""Content hashes: of arrays where they lie, on any mesh and number of hosts; of small facts as JSON."""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from unimedi_jax import trees
from unimedi_jax.typing import Array, PyTree, UInt

SEEDS = (0x9E3779B9, 0x85EBCA6B)  # one lane of 32 bits each
SMALL = 1 << 20  # elements; for fewer, summing on the host is faster than compiling a program for their shape


def arrays(tree: PyTree) -> dict[str, str]:
    """16 hex digits for every leaf, by its path.

    The sum over all elements of a mix of an element's bits and its place, modulo 2^32, in two lanes. The mix is a
    bijection of the bits, so one changed element always changes the sum. Sums of integers have no order, so devices
    reduce their own parts and the layout makes no difference. It detects decay and mistakes, not malice.
    """
    lanes = jax.device_get([_lanes(leaf) for leaf in jax.tree.leaves(tree)])
    return {name: "".join(f"{x:08x}" for x in pair) for name, pair in zip(trees.names(tree), lanes, strict=True)}


def facts(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _lanes(x: Array) -> UInt[Array, "2"] | UInt[np.ndarray, "2"]:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return _on_host(x) if x.size <= SMALL and x.is_fully_replicated else _on_devices(x)


def _on_host(x: Array) -> UInt[np.ndarray, "2"]:
    values = np.asarray(x).reshape(-1)
    bits = values.view(f"uint{_width(values)}").astype(np.uint32)
    return np.stack(_sums(bits, np.arange(bits.size, dtype=np.uint32)))


@jax.jit
def _on_devices(x: Array) -> UInt[Array, "2"]:
    bits = x if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{_width(x)}"))
    place = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):  # row-major, without a reshape that would gather a sharded array
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * np.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.stack(_sums(bits.astype(jnp.uint32), place))


def _sums(bits: UInt[Array, "..."], place: UInt[Array, "..."]) -> list[UInt[Array, ""]]:
    return [_mix(bits ^ _mix(place + np.uint32(seed))).sum(dtype=np.uint32) for seed in SEEDS]


def _mix(x: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """The finaliser of MurmurHash3: a bijection of 32 bits in which each bit of x reaches all of the result."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)


def _width(x: Array) -> int:
    return min(x.dtype.itemsize, 4) * 8
