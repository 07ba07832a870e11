"""The bucket half of checkpoints: gathered on the first host's disk, sent from there in the background."""

from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from data.buckets.mirror import Mirror
from unimedi_jax.typing import PyTree

# The first host saves without the others, who restore with it, each from its own disk.
ALONE = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="alone")


class Sender:
    """Sends a mirror, if there is one, behind the steps that follow."""

    def __init__(self, place: Mirror | None) -> None:
        self._place, self._pool = place, ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def begin(self) -> None:
        """Begins to send what the folder holds now."""
        if self._place is not None:
            self._running = self._pool.submit(self._place.push)

    def check(self) -> None:
        """Raises the error of what has failed in the meantime."""
        if self._running is not None and self._running.done():
            self.wait()

    def wait(self) -> None:
        """Returns when all has arrived, or raises why it has not."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Waits for what is on its way, and ends the thread."""
        self._pool.shutdown()


def gathered(tree: PyTree) -> PyTree:
    """Global arrays in the first host's memory, where no step can overwrite them; None on the others.

    It takes all hosts, one array after the other.
    """
    return jax.tree.map(_gathered, tree)


def _gathered(array: jax.Array) -> np.ndarray | None:
    """A global array in the first host's memory, where no step can overwrite it; None on the others."""
    first = jax.process_index() == 0
    if array.is_fully_replicated:
        return np.array(array.addressable_data(0)) if first else None
    whole = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(whole) if first else None
