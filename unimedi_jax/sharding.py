"""The mesh, the layout of the state by path rules, and the placement of a host's batch on the devices."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data.errors import UserError
from unimedi_jax import trees
from unimedi_jax.typing import PyTree

AXES = ("data", "fsdp")
SMALLEST_SHARDED = 4 * 2**20  # bytes; below, gathering costs more than the memory it saves


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A ("data", "fsdp") mesh of all devices, of one too; `data` = -1 takes what `fsdp` leaves."""
    count = jax.device_count() if devices is None else len(devices)
    data = count // fsdp if data == -1 else data
    if data * fsdp != count:
        raise UserError(
            f"mesh of data={data} x fsdp={fsdp} does not fill {count} devices: "
            "set config.mesh.data and config.mesh.fsdp so that their product does"
        )
    # Auto axes on purpose: linen's embedding and concatenations do not work under Explicit ones.
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def layout(tree: PyTree, mesh: Mesh, rules: Sequence[tuple[str, str]]) -> PyTree:
    """A NamedSharding for every leaf of an abstract state.

    `rules` are (regular expression, "fsdp" or "replicate"), first match wins; unmatched leaves and unused rules raise.
    "fsdp" splits the largest dimension that the axis divides, of leaves of at least 4 MiB. The paths of
    optimiser moments and teacher end like those of the parameters, so one rule matches all three.
    """
    kinds = trees.first_match(tuple(tuple(rule) for rule in rules), tree, "sharding")

    def one(kind: str, leaf: Any) -> NamedSharding:
        if kind not in ("fsdp", "replicate"):
            raise UserError(f"config.sharding: {kind!r} is neither 'fsdp' nor 'replicate'")
        spec = P() if kind == "replicate" else _largest_dimension(leaf, mesh.shape["fsdp"])
        return NamedSharding(mesh, spec)

    return jax.tree.map(one, kinds, tree)


def _largest_dimension(leaf: Any, size: int) -> P:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    candidates = [axis for axis, length in enumerate(leaf.shape) if length % size == 0]
    if is_key or size == 1 or math.prod(leaf.shape) * leaf.dtype.itemsize < SMALLEST_SHARDED or not candidates:
        return P()
    best = max(candidates, key=lambda axis: leaf.shape[axis])
    return P(*(None,) * best, "fsdp")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Spreads the rows of a batch over all devices."""
    return NamedSharding(mesh, P(AXES))


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The arrays of a tree, whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """This host's rows of a batch as global arrays."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_same(batch: PyTree, mesh: Mesh) -> PyTree:
    """A whole batch that every host has read as global arrays: each host places its own rows."""
    # `jax.device_put` would send the arrays of the first host to all others, to compare them with theirs.
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda rows, x=x: x[rows]), batch)
