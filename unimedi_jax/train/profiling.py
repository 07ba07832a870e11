"""A trace of a few steps, as `config.profile` asks: what host and devices did when."""

import logging
import pathlib
from typing import Any

import jax

from unimedi_jax.config.pretraining import profile_steps

LOG = logging.getLogger(__name__)


class Profiler:
    """Traces the steps of `config.profile` into a folder for `tensorboard --logdir`, or does nothing.

    The steps are waited for at both ends: the trace holds them whole and no others.
    """

    def __init__(self, steps: str, folder: pathlib.Path) -> None:
        self._steps, self._folder, self._tracing = profile_steps(steps), folder, False

    def before(self, step: int) -> None:
        """Called before a step is dispatched."""
        if step in self._steps and not self._tracing:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def after(self, step: int, metrics: Any) -> None:
        """Called after it was dispatched; `metrics` are what it will give."""
        if self._tracing and step == self._steps[-1]:
            jax.block_until_ready(metrics)
            self._stop()
        elif step + 1 == self._steps.start:
            jax.block_until_ready(metrics)

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
        LOG.info("traced steps %d to %d: %s", self._steps[0], self._steps[-1], self._folder)

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._tracing:  # the run ended in there
            self._stop()
