"""Several processes as one run: joining, waiting for each other, agreeing, and the end when one is lost."""

import contextlib
import os
import pathlib
import re
import secrets
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data.buckets.mirror import Mirror
from data.errors import RESUMABLE, UserError
from unimedi_jax import sharding
from unimedi_jax.typing import Array

VISIBLE = 10.0  # seconds in which a shared disk shows a new file to all
# How XLA's errors begin. Of a program that runs while it is dispatched, JAX raises them as ValueErrors.
_STATUS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")


def connect(coordinator: str = "", processes: int = 1, process: int = 0, timeout: int = 60) -> None:
    """Joins the processes of a run, before anything else asks for devices; does nothing for a single process.

    `coordinator` is "host:port" of process 0, or "auto" where the cluster knows (TPU pods, Slurm, Open MPI): a launcher
    that starts several processes on a machine gives each one device, a single one has them all. A process that is
    silent for `timeout` seconds counts as lost, which ends the others.
    """
    if not coordinator or jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `train.signals`
    explicit = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    # JAX takes every process of Slurm and Open MPI for one of several on its machine, and would show it one GPU.
    detected = {"local_device_ids": []} if _alone_on_machine() else {}
    try:
        settings = detected if coordinator == "auto" else explicit
        limits = {"heartbeat_timeout_seconds": timeout, "shutdown_timeout_seconds": timeout}
        jax.distributed.initialize(**settings, **limits)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"config.distributed: {str(error).strip().splitlines()[0]}") from error


def barrier(point: str) -> None:
    """Returns when every process of the run has reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def compile_together(step: jax.stages.Wrapped, *arguments: Any) -> None:
    """Compiles a program on every process before any runs it; does nothing for a single process.

    Gloo gives processes 30 seconds to meet in their first sum, and one may compile for longer than another.
    """
    if jax.process_count() > 1:
        step.lower(*arguments).compile()
        barrier("the step is compiled")


@contextlib.contextmanager
def primary_first(point: str, place: Mirror | None = None) -> Iterator[None]:
    """The first process runs the body alone, then the others do and find the files that it wrote, in a bucket's too."""
    if jax.process_index():
        barrier(point)
        if place is not None:
            place.pull()
    yield
    if not jax.process_index():
        if place is not None and jax.process_count() > 1:
            place.push()
        barrier(point)


def check_shared(folder: pathlib.Path) -> None:
    """Refuses a folder that is another one on each host: within seconds, on all of them, before anything is built.

    Raises:
        UserError: this host, or another, does not see what the first one writes there.
    """
    if jax.process_count() == 1:
        return
    token = int(multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32))))
    mark = folder / f".hosts-{token:08x}"
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    barrier("the first host has written")
    end = time.monotonic() + VISIBLE
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.2)  # a network's file system may show it late
    blind = multihost_utils.process_allgather(np.array(not mark.exists()))
    if jax.process_index() == 0:
        mark.unlink()
    if hosts := np.flatnonzero(blind).tolist():
        remedy = "name a --workdir on a disk that all hosts see, or in a bucket (gs://, s3://)"
        raise UserError(f"{folder} on host {', '.join(map(str, hosts))} is not that of host 0: {remedy}")


def any_host(mine: bool, mesh: Mesh) -> Array:
    """Whether `mine` is true on any process: a scalar on the devices, computed after the work already queued there."""
    return _any(sharding.put_batch(np.full(jax.local_device_count(), mine), mesh))


def largest(mine: int, mesh: Mesh) -> int:
    """The largest `mine` of all processes. With several, the host waits for the devices to finish their queue."""
    if jax.process_count() == 1:
        return mine
    return int(_max(sharding.put_batch(np.full(jax.local_device_count(), mine, np.int32), mesh)))


@contextlib.contextmanager
def none_lost() -> Iterator[None]:
    """Among several processes, ends this one at once when another is lost: waiting for it would take for ever.

    Where a device waits for one of this process, which waits for the lost one, no error arrives. After the `timeout` of
    `connect` JAX then aborts the process, exit code 134: it takes no function of Python to call instead.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        ours = isinstance(error, ValueError) and not _STATUS.match(str(error))
        if ours or jax.process_count() == 1:
            raise
        traceback.print_exc()
        line = str(error).strip().splitlines()[0][:200]
        words = f"another host was lost, or failed ({line}): the same command on all hosts resumes"
        print(words, file=sys.stderr, flush=True)
        os._exit(RESUMABLE)  # closing what is open would wait for the lost host


def _alone_on_machine() -> bool:
    """Whether the launcher says that it started one process a machine: Slurm writes "1" or "1(x16)", Open MPI "1"."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    return tasks.partition("(")[0] == "1"


_any, _max = jax.jit(jnp.any), jax.jit(jnp.max)
