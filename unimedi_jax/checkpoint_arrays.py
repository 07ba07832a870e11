"""How Orbax writes and reads the parts of a checkpoint: arrays on their devices, random keys as integers, JSON."""

import contextlib
import functools
import inspect
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from unimedi_jax import integrity
from unimedi_jax.typing import PyTree

SMALLEST_SLICE = 2**20  # bytes; a replicated array is divided among its devices only if each then writes this much
JSON = ocp.args.JsonRestore()
TOGETHER = ocp.options.MultiprocessingOptions()


@contextlib.contextmanager
def damage_named() -> Iterator[None]:
    """Turns what Orbax and TensorStore raise, any class in thousands of lines, into a DamagedError of one line.

    Where one array cannot be read, Orbax closes its event loop while others are being read. When those are there, or
    fail in turn, Python would print a traceback for each, at any time from then on.
    """
    before = sys.unraisablehook
    if getattr(before, "func", None) is not _unless_late:
        sys.unraisablehook = functools.partial(_unless_late, before)
    try:
        yield
        sys.unraisablehook = before
    except (PermissionError, MemoryError, jax.errors.JaxRuntimeError, integrity.DamagedError):
        raise  # says nothing of what was saved, or all
    except Exception as error:
        raise integrity.DamagedError(first_line(error)) from error


def _unless_late(others: Callable[[Any], Any], unraisable: Any) -> None:
    closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
    if not closed and not (inspect.iscoroutine(unraisable.object) and _of_orbax(unraisable.object)):
        others(unraisable)


def _of_orbax(coroutine: types.CoroutineType) -> bool:
    return str(pathlib.Path(ocp.__file__).parent) in coroutine.cr_code.co_filename


def handler(hosts_of: ocp.options.MultiprocessingOptions = TOGETHER) -> ocp.CompositeCheckpointHandler:
    """Orbax's for state, data and meta, in which the processes of `hosts_of` work together."""
    # A program of its own cuts out each device's share of an array: for hundreds of small arrays, compiling these takes
    # longer than writing everything.
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SMALLEST_SLICE)
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
    return ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=hosts_of),
        state=ocp.PyTreeCheckpointHandler(type_handler_registry=registry, multiprocessing_options=hosts_of),
        data=ocp.JsonCheckpointHandler(),
        meta=ocp.JsonCheckpointHandler(),
    )


def onto(abstract: PyTree, **settings: Any) -> ocp.args.PyTreeRestore:
    """Restores a tree of ShapeDtypeStructs onto the devices that their shardings name, keys as integers."""
    plain = jax.tree.map(key_data, abstract)
    return ocp.args.PyTreeRestore(plain, restore_args=ocp.checkpoint_utils.construct_restore_args(plain), **settings)


def key_data(leaf: Any) -> Any:
    """The integers of a random key or of its ShapeDtypeStruct; any other leaf as it is.

    Orbax's own record of which arrays are keys needs a part of it that is not public.
    """
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf)
    data = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def like(array: jax.Array, abstract: jax.ShapeDtypeStruct) -> jax.Array:
    """The key whose integers were restored, where `abstract` asks for one."""
    is_key = jax.dtypes.issubdtype(abstract.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(array) if is_key else array


def first_line(error: Exception) -> str:
    """An error in one short line."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__
