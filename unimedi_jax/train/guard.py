"""Looks at every step: counts skipped ones, tells of spikes, and writes down which records were in them."""

import collections
import json
import logging
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from unimedi_jax.errors import UserError
from unimedi_jax.typing import Metrics

LOG = logging.getLogger(__name__)
WINDOW, ENOUGH = 128, 32  # losses that a spike is measured by, and the fewest that will do


class Done(NamedTuple):
    """A step that was dispatched: its metrics, still on the device, and this host's record ids by modality."""

    step: int
    metrics: Metrics
    ids: dict[str, list[str]]


class Guard:
    """Watches the losses of a run.

    Incidents go to `workdir/incidents/<step>-<kind>[.host<n>].json`: step, record ids, every metric of the step. A
    name per step, so that a step that is done again after a restart is not told twice.
    """

    def __init__(self, workdir: pathlib.Path, *, max_skipped: int, spike: float) -> None:
        self._folder, self._max, self._spike = workdir / "incidents", max_skipped, spike
        self._losses: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def look(self, done: Done) -> None:
        """Waits for the step's loss.

        Raises:
            UserError: `max_skipped` steps in a row were not finite.
        """
        loss, in_a_row = (
            float(x.value) for x in jax.device_get((done.metrics["loss"], done.metrics["skipped/in_a_row"]))
        )
        if in_a_row:
            where = self._note(done, "skipped")
            LOG.warning("step %d is skipped: not finite, the state stays as it was; its records: %s", done.step, where)
            if in_a_row >= self._max:
                raise UserError(
                    f"step {done.step}: {in_a_row:.0f} steps in a row were not finite; training stops, the last "
                    f"checkpoint is from before. Which records: {self._folder}. "
                    "Try a lower config.optim.peak_lr or config.model.dtype=float32"
                )
            return
        if self._spike and len(self._losses) >= ENOUGH:
            mean, deviation = statistics.fmean(self._losses), statistics.pstdev(self._losses)
            if loss > mean + self._spike * max(deviation, 1e-6):
                where = self._note(done, "spike")
                LOG.warning("step %d: loss %.3f after a mean of %.3f; its records: %s", done.step, loss, mean, where)
        self._losses.append(loss)

    def _note(self, done: Done, kind: str) -> pathlib.Path:
        host = f".host{jax.process_index()}" if jax.process_index() else ""
        path = self._folder / f"{done.step}-{kind}{host}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        values = {name: str(value) for name, value in host_values(done.metrics).items()}  # "nan", where JSON has none
        partial.write_text(json.dumps({"step": done.step, "ids": done.ids, "metrics": values}), encoding="utf-8")
        partial.replace(path)
        return path


def host_values(metrics: Metrics) -> dict[str, float]:
    """The metrics of a step as numbers of the host."""
    return {name: float(mean.value) for name, mean in jax.device_get(metrics).items()}


def record_ids(batch: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The ids of a host's batch, by modality."""
    return {name: [_text(record) for record in part["id"]] for name, part in batch.items()}


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value
