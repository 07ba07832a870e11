"""Several pre-training runs side by side: trained on the same data with the same steps and seeds, and their rows."""

import copy
import itertools
import json
import logging
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from data.errors import UserError
from unimedi_jax import hlo, writers
from unimedi_jax.config import presets
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import results
from unimedi_jax.input import pipeline, places
from unimedi_jax.report import tables
from unimedi_jax.train import dataset, loop
from unimedi_jax.train.job import build_job

LOG = logging.getLogger(__name__)
UNIMEDI = "unimedi"  # the preset that changes nothing
GFLOP, SECONDS = "cost/gflop", "cost/seconds"
FILE = results.FILE


class Run(NamedTuple):
    """One preset of one seed."""

    name: str
    seed: int
    folder: pathlib.Path
    settings: ml_collections.ConfigDict

    @property
    def untrained(self) -> tuple[str, ...]:
        """Modalities that it is not trained on: an encoder is evaluated on what it was trained for."""
        return tuple(name for name in pipeline.MODALITIES if not self.settings.batch[name])


def planned(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Run]:
    """Every preset of `config.presets` with every seed, each in its own folder, `<preset>-<seed>`.

    Raises:
        UserError: a preset that does not exist, or two that cannot be joined.
    """
    known = list(dict.fromkeys([UNIMEDI, *config.changes]))
    names = list(dict.fromkeys(name for name in config.presets.split(",") if name))
    if not names or {part for name in names for part in name.split("+")} - set(known):
        raise UserError(f"config.presets must be a list of {', '.join(known)}, not {config.presets!r}")
    if not config.seeds:
        raise UserError("config.seeds is empty: give at least one")
    runs = []
    for seed, name in itertools.product(dict.fromkeys(config.seeds), names):
        settings = settings_of(config, name, seed, config.data)
        settings.evals.limit = 0  # the tables are of whole splits
        runs.append(Run(name, seed, workdir / f"{name}-{seed}", settings))
    return runs


def settings_of(config: ml_collections.ConfigDict, name: str, seed: int, data: str) -> ml_collections.ConfigDict:
    """What all share, `config.base`, with the changes of a preset, or of several joined by a plus.

    Raises:
        UserError: the presets do not fit each other.
    """
    settings = copy.deepcopy(config.base)
    try:
        for part in name.split("+"):
            presets.apply(settings, config.changes.get(part, {}))
        settings.update(seed=seed, data=data, data_dir=config.data_dir)
    except (KeyError, TypeError) as error:
        raise UserError(f"config.presets: {name} does not fit config.base: {str(error).splitlines()[0]}") from error
    return settings


def check_sets(config: ml_collections.ConfigDict) -> None:
    """Raises UserError where the sets have no test records, which the table is made of."""
    sets = [record_set for record_set, _ in dataset.open_sets(config.data, config.data_dir)]
    if not places.of_sets(sets, ("test",)):
        names = " and ".join(one.name for one in sets)
        raise UserError(f"the set {names} has no test records: there is nothing to compare the presets on")


def train(
    runs: Sequence[Run], task: str, workdir: pathlib.Path, *, beside: Sequence[results.Result] = ()
) -> list[results.Result]:
    """Trains what is not trained yet, resuming an interrupted run, and returns all rows, those of `beside` last.

    The rows of each run are in results.csv as soon as it has ended. A run that fails costs its own rows and a line.

    Raises:
        UserError: all of them fail.
    """
    rows: list[results.Result] = []
    failures = []
    for run in runs:
        LOG.info("preset %s, seed %d", run.name, run.seed)
        try:
            loop.run(run.settings, run.folder)
            own = measured(run, task) + costs(run, task, counts=not any(row.encoder == run.name for row in rows))
        except UserError as error:
            failures.append(error)
            LOG.warning("preset %s, seed %d, left out: %s", run.name, run.seed, error)
            continue
        rows += own
        results.write_csv(workdir / FILE, [*rows, *beside])
    if not rows:
        raise failures[0]
    return [*rows, *beside]


def measured(run: Run, task: str) -> list[results.Result]:
    """The test numbers of a finished run, without those of modalities that it was not trained on.

    Raises:
        UserError: there are none.
    """
    final = tables.final(writers.read(run.folder))
    if final is None:
        raise UserError(f"{run.folder} holds no finished run: remove it, or run the same command again")
    hidden = tuple(f"test/{name}{end}" for name in run.untrained for end in "/:") + ("test/gap/",) * bool(run.untrained)
    scalars = {
        key.removeprefix("test/"): value
        for key, value in final.items()
        if key.startswith("test/") and value is not None and not key.startswith(hidden) and key != "test/cases"
    }
    return _rows(run, task, scalars)


def costs(run: Run, task: str, *, counts: bool) -> list[results.Result]:
    """Seconds a step of a run, and if asked for the arithmetic of its compiled step of the whole batch."""
    scalars = {SECONDS: _seconds(run)} | ({GFLOP: gflop(run)} if counts else {})
    return _rows(run, task, {key: value for key, value in scalars.items() if not math.isnan(value)})


def _rows(run: Run, task: str, scalars: dict[str, float]) -> list[results.Result]:
    return results.of(scalars, task=task, data=run.settings.data, modality="", encoder=run.name, seed=run.seed)


def gflop(run: Run) -> float:
    """10^9 floating-point operations of matrix products, as training compiles the step."""
    job = build_job(typed(PretrainConfig, run.settings), run.folder)
    rows = {name: count // job.mesh.size for name, count in job.batch.items()}
    compiled = job.lower(rows, run.settings.input.report_length).compile()
    return hlo.flops(hlo.parse(compiled.as_text())) * job.mesh.size / 1e9


def _seconds(run: Run) -> float:
    """Median over what the run logged; not-a-number where it took no step beside the first, which compiles."""
    rates = [line["speed/samples_per_s"] for line in writers.read(run.folder) if line.get("speed/samples_per_s")]
    samples = sum(json.loads((run.folder / "config.json").read_text(encoding="utf-8"))["global_batch"].values())
    return float(np.median([samples / rate for rate in rates])) if rates else float("nan")
