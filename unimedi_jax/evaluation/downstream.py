"""What all downstream jobs do: open, evaluate, and leave a table, heads and the answer for every test case."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unimedi_jax.config.jobs import DownstreamConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import results, trials
from unimedi_jax.evaluation.heads import Head, save
from unimedi_jax.inference import pretrained
from unimedi_jax.input import records
from unimedi_jax.input.records import RecordSet

CASES = "predictions.csv"
Evaluate = Callable[..., list[results.Result]]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a job leaves beside its table; the evaluation fills it."""

    heads: list[Head] = dataclasses.field(default_factory=list)
    cases: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # rows of predictions.csv

    def add(self, ids: Sequence[str], columns: Mapping[str, Sequence[Any]], **shared: Any) -> None:
        """A row for each case: its record's id, what all of them share, and its entry of every column."""
        for row, name in enumerate(ids):
            self.cases.append({"id": name, **shared} | {column: values[row] for column, values in columns.items()})

    def write(self, workdir: pathlib.Path) -> None:
        """Writes `heads/` and `predictions.csv`, and says so."""
        for head in self.heads:
            print(f"head: {save(head, workdir)}")
        if self.cases:
            results.write_cases(workdir / CASES, self.cases)
            print(f"test cases: {workdir / CASES}")


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    settings: type[DownstreamConfig],
    evaluate: Evaluate,
    metrics: Sequence[str],
) -> list[results.Result]:
    """Writes `results.csv` and the outputs into `workdir`, prints a table of `metrics`.

    `evaluate` takes the network, the set, the settings and the `Outputs` that it may fill.
    """
    chosen = typed(settings, config)
    trained = pretrained.load(chosen.checkpoint, chosen.network)
    workdir = results.folder(workdir, trained)
    dataset, outputs = records.open_set(chosen.data_dir, chosen.data), Outputs()
    trials.check_leaks(trained, [dataset], chosen)
    rows = evaluate(trained, dataset, chosen, outputs)
    results.publish(rows, metrics, workdir, trained)
    outputs.write(workdir)
    return rows


def ids(dataset: RecordSet, modality: str, split: str = "test") -> list[str]:
    """Ids of the records of a split, in order."""
    return [records.text(record["id"]) for record in dataset.source(modality, split, ("id",))]
