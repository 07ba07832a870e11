"""One measured number a row: what all downstream jobs, their tables and the CSV are made of."""

import contextlib
import csv
import io
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data import pages, plain
from data.errors import UserError
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.metrics import auroc
from unimedi_jax.report import tables

FILE = "results.csv"
FEW = (
    f"-: macro10 is the mean over the findings with at least {auroc.FEWEST} positive and {auroc.FEWEST} negative test "
    f"cases, and there is none; {FILE} has every finding"
)
CHECKPOINT = "{checkpoint}"  # in the name of a --workdir


class Result(NamedTuple):
    """A number and everything that identifies it. Shares are in [0, 1], metrics as the field states them."""

    task: str  # "linear probe", "segmentation", ...
    data: str  # name of the built set
    modality: str  # "xray", "ct" or "" for both
    encoder: str  # "trained" or "untrained"
    metric: str  # "auroc/macro", "dice/heart", ...
    value: float
    share: float = 1.0  # of the training cases
    seed: int = 0
    low: float = math.nan  # 95 % bootstrap interval over patients
    high: float = math.nan
    cases: int = 0  # behind the number
    ct_slices: bool | None = None  # CTs went in with their chosen slices, or by the volume alone; None: X-rays
    checkpoint: str = ""  # a run's folder or an export
    step: int | None = None  # of the checkpoint
    network: str = ""  # of the checkpoint: "student" or "teacher"

    @property
    def key(self) -> str:
        """Name of the number on a page: everything but the encoder and the seed, which share a cell."""
        return "/".join(filter(None, (self.task, self.data, self.modality, f"{self.share:g}", self.metric)))


def of(scalars: Mapping[str, float], **shared: Any) -> list[Result]:
    """A row for every scalar, with the `shared` fields; `<key>/low` and `<key>/high` become the interval of `<key>`."""
    ends = ("low", "high")
    return [
        Result(metric=name, value=value, **{end: scalars.get(f"{name}/{end}", math.nan) for end in ends}, **shared)
        for name, value in scalars.items()
        if not name.endswith(("/low", "/high"))
    ]


def write_csv(path: pathlib.Path, rows: Iterable[Result]) -> None:
    """All rows, one line each, appearing whole or not at all; not-a-number is left blank, and text is no formula."""
    write_table(path, Result._fields, rows)


def write_table(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """The same of any rows."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(map(plain.cell, columns))
    for row in rows:
        writer.writerow("" if value is None or value != value else plain.cell(value) for value in row)
    pages.write(path, stream.getvalue())


def write_cases(path: pathlib.Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Cases as a CSV with every column that one of them has, in the order in which they come up."""
    columns = list(dict.fromkeys(name for case in cases for name in case))
    write_table(path, columns, ([_plain(case.get(name, "")) for name in columns] for case in cases))


def _plain(value: Any) -> Any:
    """Six digits of a number that is not whole."""
    return round(float(value), 6) if isinstance(value, float | np.floating) else value


def folder(workdir: pathlib.Path, trained: Pretrained) -> pathlib.Path:
    """The folder of a job's results: `workdir`, with CHECKPOINT in its name replaced by the checkpoint's own.

    Raises:
        UserError: it holds the results of another checkpoint.
    """
    place = pathlib.Path(str(workdir).replace(CHECKPOINT, _name(trained)))
    path = place / FILE
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            others = {(row.get("checkpoint"), row.get("step")) for row in csv.DictReader(stream)}
        if others - {(plain.cell(trained.address), str(trained.step))}:
            checkpoint, step = next(iter(others))
            raise UserError(
                f"{path} holds numbers of {checkpoint or 'another checkpoint'}{f' at step {step}' if step else ''}: "
                f"name another --workdir for {trained.address} at step {trained.step}, or remove it"
            )
    return place


def _name(trained: Pretrained) -> str:
    """The checkpoint's path under runs/, or its address elsewhere, and its step, as one word."""
    if trained.files is not None:
        return re.sub(r"[^\w.=-]+", "-", trained.address)
    if trained.address != str(trained.path):
        return re.sub(r"[^\w.=@-]+", "-", f"{trained.address}-{trained.step}")
    path = trained.path.resolve()
    with contextlib.suppress(ValueError):  # it lies elsewhere
        path = path.relative_to(pathlib.Path("runs").resolve())
    return "-".join([*(part for part in path.parts if part != path.root), str(trained.step)])


def of_checkpoint(rows: Iterable[Result], trained: Pretrained) -> list[Result]:
    """The rows with the checkpoint that they were measured of."""
    of = {"checkpoint": trained.address, "step": trained.step, "network": trained.network}
    return [row._replace(**of) for row in rows]


def publish(rows: Sequence[Result], metrics: Sequence[str], workdir: pathlib.Path, trained: Pretrained) -> None:
    """All rows as FILE in `workdir`, `metrics` as a table on the terminal."""
    path = workdir / FILE
    write_csv(path, of_checkpoint(rows, trained))
    print(f"{text(rows, metrics)}\nall numbers: {path}")


def average(rows: Sequence[Result], *, spread: bool = False) -> list[Result]:
    """Rows that differ in their seed alone as one: mean of the values; intervals are kept where there is one seed.

    With `spread` the interval of several seeds is that from their smallest value to their largest, else none.
    """
    groups: dict[tuple, list[Result]] = {}
    for row in rows:
        groups.setdefault((row.key, row.encoder), []).append(row)
    merged = []
    for group in groups.values():
        values = np.array([row.value for row in group])
        value = math.nan if np.isnan(values).all() else float(np.nanmean(values))
        ends = (group[0].low, group[0].high)
        if len(group) > 1:
            shown = spread and not np.isnan(value)
            ends = (float(np.nanmin(values)), float(np.nanmax(values))) if shown else (math.nan, math.nan)
        merged.append(group[0]._replace(value=value, low=ends[0], high=ends[1]))
    return merged


def scalars(merged: Iterable[Result]) -> dict[str, float]:
    """Values for a page: numbers by encoder and key, their intervals as `<key>/low` and `<key>/high`."""
    values: dict[str, float] = {}
    for row in merged:
        key = f"{row.encoder}/{row.key}"
        values[key] = row.value
        if not np.isnan(row.low):
            values |= {f"{key}/low": row.low, f"{key}/high": row.high}
    return values


def text(rows: Sequence[Result], metrics: Sequence[str]) -> str:
    """A table for the terminal: a line for each set, modality, share and encoder, a column for each of `metrics`."""
    merged = average([row for row in rows if row.metric in metrics])
    seeds: dict[tuple, set[int]] = {}
    for row in rows:
        seeds.setdefault(_place(row), set()).add(row.seed)
    lines = [["task", "set", "modality", "share", "encoder", "seeds", *metrics]]
    for place, used in seeds.items():
        by_metric = {row.metric: row for row in merged if _place(row) == place}
        if by_metric:
            task, data, modality, share, encoder = place
            cells = [_cell(by_metric.get(metric)) for metric in metrics]
            lines.append([task, data, modality or "both", f"{share:.0%}", encoder, str(len(used)), *cells])
    table = tables.aligned(lines)
    few = any(row.metric.endswith("/macro10") and np.isnan(row.value) for row in merged)
    return f"{table}\n{FEW}" if few else table


def _place(row: Result) -> tuple:
    return (row.task, row.data, row.modality, row.share, row.encoder)


def _cell(row: Result | None) -> str:
    if row is None or np.isnan(row.value):
        return "-"
    interval = "" if np.isnan(row.low) else f" [{row.low:.3f}, {row.high:.3f}]"
    return f"{row.value:.3f}{interval}"
