"""Watches the loss of every step: counts skipped steps, detects spikes, and writes down which records were in them.

Its memory is saved with the state, so that a run that was stopped detects the same spikes as one that was not.
"""

import collections
import json
import logging
import math
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from data import pages
from data.errors import UserError
from unimedi_jax.input import records
from unimedi_jax.typing import Metrics

LOG = logging.getLogger(__name__)
WINDOW, ENOUGH = 128, 32  # losses that a spike is compared with, and the fewest that suffice


class StepResult(NamedTuple):
    """A dispatched step: its metrics, still on the device, and this host's record ids by modality."""

    step: int
    metrics: Metrics
    ids: dict[str, list[str]]


class LossSpike(Exception):  # noqa: N818 (it asks the loop for a rollback; nothing has failed)
    """The loss has spiked for too long: the state should go back to one of `step` at the latest."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss has spiked since step {step}")
        self.step = step


class LossMonitor:
    """Watches the losses of a run.

    Incidents go to `workdir/incidents/<step>-<kind>[.host<n>].json`: step, record ids, every metric of the step. A
    step that is repeated after a restart overwrites its own file.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        max_skipped: int,
        spike: float,
        rollback: int = 0,
        max_rollbacks: int = 3,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._max, self._spike = workdir / "incidents", max_skipped, spike
        self._rollback, self._max_rollbacks = rollback, max_rollbacks
        remembered = {"losses": [], "spikes": 0, "rollbacks": 0} | dict(memory or {})
        self._losses: collections.deque[float] = collections.deque(remembered["losses"], maxlen=WINDOW)
        self._spikes, self._rollbacks = remembered["spikes"], remembered["rollbacks"]

    @property
    def memory(self) -> dict[str, Any]:
        """What a new monitor needs to go on: losses, spikes in a row, rollbacks."""
        return {"losses": list(self._losses), "spikes": self._spikes, "rollbacks": self._rollbacks}

    def rolled_back(self, memory: Mapping[str, Any] | None) -> dict[str, Any]:
        """The memory for a restart from a checkpoint that holds `memory`: one rollback more than now."""
        return {**(memory or {}), "rollbacks": self._rollbacks + 1}

    def update(self, result: StepResult) -> None:
        """Takes in one step; waits for its loss.

        Raises:
            UserError: `max_skipped` steps in a row were not finite, or the state went back too often.
            LossSpike: the loss has spiked in `rollback` steps in a row.
        """
        values = host_values({name: result.metrics[name] for name in ("loss", "skipped/in_a_row")})
        step, loss, in_a_row = result.step, values["loss"], values["skipped/in_a_row"]
        if in_a_row:
            where = self._note(result, "skipped")
            LOG.warning("step %d is skipped: not finite, the state stays as it was; its records: %s", step, where)
            if in_a_row >= self._max:
                raise UserError(
                    f"step {step}: {in_a_row:.0f} steps in a row were not finite; training stops, the last "
                    f"checkpoint is from before. Which records: {self._folder}. "
                    "Try a lower config.optim.peak_lr or config.model.dtype=float32"
                )
            return
        highest = self._highest()
        # A spike is remembered as the highest ordinary loss, or it would hide the next one.
        self._losses.append(min(loss, highest))
        if loss <= highest:
            self._spikes = 0
            return
        self._spikes += 1
        where = self._note(result, "spike")
        expected = f"at most {highest:.3f} was to be expected"
        LOG.warning("step %d: loss %.3f where %s; records: %s", step, loss, expected, where)
        if not self._rollback or self._spikes < self._rollback:
            return
        if self._rollbacks >= self._max_rollbacks:
            raise UserError(
                f"step {step}: the loss spikes again after {self._rollbacks} rollbacks; training stops. Which "
                f"records: {self._folder}. Try a lower config.optim.peak_lr, or config.guard.rollback=0"
            )
        raise LossSpike(step - self._spikes)

    def _highest(self) -> float:
        """The highest loss that is no spike."""
        if not self._spike or len(self._losses) < ENOUGH:
            return math.inf
        return statistics.fmean(self._losses) + self._spike * max(statistics.pstdev(self._losses), 1e-6)

    def _note(self, result: StepResult, kind: str) -> pathlib.Path:
        host = f".host{jax.process_index()}" if jax.process_index() else ""
        path = self._folder / f"{result.step}-{kind}{host}.json"
        values = {name: str(value) for name, value in host_values(result.metrics).items()}  # "nan", where JSON has none
        return pages.write(path, json.dumps({"step": result.step, "ids": result.ids, "metrics": values}))


def host_values(metrics: Metrics) -> dict[str, float]:
    """The metrics of a step as numbers of the host."""
    return {name: float(mean.value) for name, mean in jax.device_get(metrics).items()}


def record_ids(batch: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The ids of a host's batch, by modality."""
    return {name: [records.text(value) for value in part["id"]] for name, part in batch.items()}
