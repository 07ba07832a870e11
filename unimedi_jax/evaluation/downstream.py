"""What all downstream jobs do: open, evaluate, and leave a table, heads and the answer for every test case."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.errors import UserError
from unimedi_jax import fingerprint
from unimedi_jax.config.jobs import DownstreamConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.convert import checksums
from unimedi_jax.evaluation import job_settings, parts, results, trials
from unimedi_jax.evaluation.heads import Head, save
from unimedi_jax.inference import pretrained
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records
from unimedi_jax.input.records import RecordSet

CASES = "predictions.csv"
# Settings that say which parts there are and where things lie; a part names itself what of them it depends on.
SELECTING = (
    *("job", "checkpoint", "network", "data", "data_dir", "allow_leaks", "tasks"),
    *("modality", "tune", "untrained", "shares", "seeds"),
)


@dataclasses.dataclass
class Part:
    """One part of a job: the evaluation fills it."""

    detailed: bool = True  # heads and cases are wanted beside the rows
    rows: list[results.Result] = dataclasses.field(default_factory=list)
    heads: list[Head] = dataclasses.field(default_factory=list)
    cases: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # rows of predictions.csv

    def add(self, ids: Sequence[str], columns: Mapping[str, Sequence[Any]], **shared: Any) -> None:
        """A row for each case: its record's id, what all of them share, and its entry of every column."""
        for row, name in enumerate(ids):
            self.cases.append({"id": name, **shared} | {column: values[row] for column, values in columns.items()})


@dataclasses.dataclass
class Outputs:
    """What a job leaves, in `workdir` as soon as each part is finished; nothing is written without a `workdir`."""

    trained: Pretrained | None = None  # whose numbers they are
    workdir: pathlib.Path | None = None
    detailed: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the job, to be kept beside the rows
    rows: list[results.Result] = dataclasses.field(default_factory=list)
    cases: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    heads: dict[str, str] = dataclasses.field(default_factory=dict)  # hashes of their files in `workdir`

    def part(
        self, fill: Callable[[Part], None], config: Any, sets: Sequence[RecordSet], **facts: Any
    ) -> list[results.Result]:
        """The rows of a part that `fill` measures, unless an earlier start of the same job has.

        The part depends on the checkpoint, the `config`, the contracts of the `sets` and the `facts` that tell it from
        the job's other parts. All rows so far are then in results.csv.
        """
        settings = {name: x for name, x in dataclasses.asdict(config).items() if name not in SELECTING}
        contracts = {one.name: fingerprint.facts(one.contract) for one in sets}
        known = {**facts, "settings": settings, "sets": contracts, "detailed": self.detailed, **self._network}
        content = parts.once(self.workdir, known, lambda: self._make(fill), whole=self._has)
        rows = [results.Result(*row) for row in content["rows"]]
        self.rows += rows
        self.cases += content["cases"]
        self.heads |= content["heads"]
        if self.workdir:
            job_settings.keep(self.workdir, self.settings)
            results.write_csv(self.workdir / results.FILE, results.of_checkpoint(self.rows, self.trained))
        return rows

    def finish(self) -> None:
        """Writes `predictions.csv` and says where things are; the parts are not needed any more."""
        for name in self.heads:
            print(f"head: {self.workdir / name}")
        if self.cases:
            results.write_cases(self.workdir / CASES, self.cases)
            print(f"test cases: {self.workdir / CASES}")
        parts.forget(self.workdir)

    def _make(self, fill: Callable[[Part], None]) -> dict[str, Any]:
        part = Part(self.detailed)
        fill(part)
        saved = [save(head, self.workdir) for head in part.heads] if self.workdir else []
        hashes = {str(path.relative_to(self.workdir)): checksums.digest(path) for path in saved}
        return {"rows": part.rows, "cases": part.cases, "heads": hashes}

    def _has(self, content: Mapping[str, Any]) -> bool:
        """Whether the heads of a part are those that it has saved."""
        return all(
            (self.workdir / name).is_file() and checksums.digest(self.workdir / name) == digest
            for name, digest in content["heads"].items()
        )

    @functools.cached_property
    def _network(self) -> dict[str, Any]:
        """What tells the network from every other one, whatever its folder is called."""
        if not (self.workdir and self.trained):
            return {}
        arrays = fingerprint.facts(fingerprint.arrays(self.trained.variables))
        place = {name: str(getattr(self.trained, name)) for name in ("path", "step", "network")}
        return {"checkpoint": {**place, "arrays": arrays, "config": fingerprint.facts(self.trained.config)}}


def begin(
    trained: Pretrained,
    workdir: pathlib.Path,
    config: DownstreamConfig,
    sets: Sequence[RecordSet],
    *,
    detailed: bool = False,
) -> Outputs:
    """The outputs of a job, in `workdir`, whose name may hold the checkpoint's.

    Raises:
        UserError: it holds the results of another checkpoint, of other settings or of other content of the sets.
    """
    place, settings = results.folder(workdir, trained), job_settings.of(config, sets)
    job_settings.check(place, settings, config)
    return Outputs(trained, place, detailed, settings)


Evaluate = Callable[[Pretrained, RecordSet, Any, Outputs], list[results.Result]]


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    settings: type[DownstreamConfig],
    evaluate: Evaluate,
    metrics: Sequence[str],
) -> list[results.Result]:
    """Writes `results.csv` and the outputs into `workdir`, prints a table of `metrics`.

    `evaluate` takes the network, the set, the settings and the `Outputs` whose parts it fills.
    """
    chosen = typed(settings, config)
    trained = pretrained.load(chosen.checkpoint, chosen.network)
    if "," in chosen.data:
        raise UserError(f"config.data={chosen.data}: the {chosen.job} job takes one set; evaluate takes several")
    dataset = records.open_set(chosen.data_dir, chosen.data)
    outputs = begin(trained, workdir, chosen, [dataset], detailed=True)
    trials.check_leaks(trained, [dataset], chosen)
    rows = evaluate(trained, dataset, chosen, outputs)
    results.publish(rows, metrics, outputs.workdir, trained)
    outputs.finish()
    return rows


def studies_of(dataset: RecordSet, modality: str, split: str = "test") -> list[tuple[str, str]]:
    """What the pictures of a study share, of each record of a split; empty where the set names no studies."""
    if "study" not in dataset.contract["source"].get("columns", ()):
        return []
    return [records.study_key(one) for one in dataset.source(modality, split, ("patient", "report", "study"))]


def patients_of(dataset: RecordSet, modality: str, rows: Sequence[int] | None = None) -> list[str]:
    """The patient of each test record, or of some `rows`: over whom intervals are."""
    source = dataset.source(modality, "test", ("patient",))
    return [records.text(source[row]["patient"]) for row in (range(len(source)) if rows is None else rows)]


def ids(dataset: RecordSet, modality: str, split: str = "test") -> list[str]:
    """Ids of the records of a split, in order."""
    return [records.text(record["id"]) for record in dataset.source(modality, split, ("id",))]
