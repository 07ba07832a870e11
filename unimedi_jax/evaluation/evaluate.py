"""Everything that a data folder allows to measure of one checkpoint: one page, one CSV."""

import contextlib
import dataclasses
import itertools
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from data import contract
from data.buckets import mirror
from data.errors import UserError
from unimedi_jax.config.jobs import (
    IN_CROPS,
    OF_CANDIDATES,
    PROTOCOLS,
    DetectConfig,
    EvaluateConfig,
    ProbeConfig,
    SegmentConfig,
)
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import (
    candidate_tuning,
    candidates,
    detect,
    hit_rates,
    native,
    probe,
    results,
    retrieve,
    segment,
    slice_windows,
    trials,
)
from unimedi_jax.evaluation.downstream import Outputs, begin
from unimedi_jax.inference import pretrained, prompts
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import dense, places, records
from unimedi_jax.metrics import auroc
from unimedi_jax.report import page, published
from unimedi_jax.report.content import Cell, PageContent, Row, Table

LOG = logging.getLogger(__name__)
SHARED = ("untrained", "resamples")  # settings that every task has
SEGMENTATIONS = tuple(itertools.product(dense.TARGETS, segment.TUNES))
# What the page shows of each task; the CSV has all.
SHOWN = {
    probe.TASKS["linear"]: probe.METRICS,
    retrieve.ZEROSHOT: ("auroc/macro10", "auprc/macro10", "point/accuracy", "point/f1_weighted", "point/precision"),
    retrieve.PROMPTS: ("auroc/macro10",),
    retrieve.ONE_OF: ("accuracy/macro", "accuracy/chance"),
    retrieve.REPORTS: ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"),
    retrieve.ACROSS: ("p5", "p10", "hit5"),
    retrieve.PRECISION: ("p5", "p10", "p100"),
    retrieve.GAP: ("xray_ct/distance", "xray_ct/accuracy", "xray_ct_cls/accuracy", "images/separation"),
    hit_rates.TASK: hit_rates.METRICS,
    slice_windows.TASK: slice_windows.METRICS,
    **dict.fromkeys((candidates.TASK, candidate_tuning.TASK), candidates.METRICS),
    **dict.fromkeys(itertools.starmap(segment.task_name, SEGMENTATIONS), (*segment.METRICS, "dice_present/mean")),
    **dict.fromkeys(detect.TASKS.values(), detect.METRICS),
}
_TRAINED = (probe.TASKS["linear"], *itertools.starmap(segment.task_name, SEGMENTATIONS), *detect.TASKS.values())
SHOWN |= {f"{task}{published.MGCA}": SHOWN[task] for task in _TRAINED}
_PROBES = (probe.TASKS["linear"], f"{probe.TASKS['linear']}{published.MGCA}")
_OF_STUDIES = (retrieve.ZEROSHOT, retrieve.PROMPTS, retrieve.ONE_OF, retrieve.REPORTS, retrieve.PRECISION)
SHOWN |= {f"{task}{trials.BY_STUDY}": SHOWN[task] for task in (*_PROBES, *_OF_STUDIES)}
SHOWN |= {
    segment.task_name(target, tune, protocol): segment.METRICS
    for (target, tune), protocol in itertools.product(SEGMENTATIONS, IN_CROPS)
}
# Nothing is trained for these, so they have no share of labels.
BY_EMBEDDINGS = (
    retrieve.ZEROSHOT,
    retrieve.ONE_OF,
    retrieve.PROMPTS,
    retrieve.REPORTS,
    retrieve.ACROSS,
    retrieve.PRECISION,
    *(f"{task}{trials.BY_STUDY}" for task in _OF_STUDIES),
)
WITHOUT_LABELS = (*BY_EMBEDDINGS, retrieve.GAP, hit_rates.TASK, slice_windows.TASK)
WITHOUT_LABELS += (candidates.TASK, candidate_tuning.TASK)
BLIND = ("/random_rate", "/fixed_rate")  # of slices chosen blindly: the same for every network
CHANCE = {"i2t_r": "chance_r", "t2i_r": "chance_r", "p": "chance_p", "hit": "chance_hit"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs `configs/evaluate.py`: `results.csv` and `index.html` in `workdir`, a table on the terminal."""
    settings = typed(EvaluateConfig, config)
    tasks = tuple(filter(None, settings.tasks.split(",")))
    if not tasks or set(tasks) - set(TASKS):
        raise UserError(f"config.tasks is a comma-separated list of {', '.join(TASKS)}, not {settings.tasks!r}")
    trained = pretrained.load(settings.checkpoint, settings.network)
    opened = _open(settings)
    prompts.check(settings.prompts, itertools.chain(*(one.contract["labels"] for one in opened)))
    outputs = begin(trained, workdir, settings, opened)
    trials.check_leaks(trained, opened, settings)
    names = ", ".join(one.name for one in opened)
    for number, task in enumerate(tasks, start=1):
        LOG.info("task %d of %d: %s", number, len(tasks), task)
        for data in [opened] if task in JOINT else opened:
            with trials.left_out(names if data is opened else data.name, task):
                TASKS[task](trained, data, settings, outputs)
    rows = outputs.rows
    if not rows:
        raise UserError(f"nothing could be evaluated on {names} in {settings.data_dir}: see the lines above")
    workdir = outputs.workdir
    evaluated = published.Evaluated({one.name: one.contract for one in opened}, _changed(settings))
    shown = mirror.named(json.loads(config.to_json_best_effort()))
    content = page_content(rows, evaluated, name=workdir.name, config=shown)
    # No report text is on this page; the contract of the reports' job stays with theirs.
    path = page.write(workdir / "index.html", content, show_reports=True)
    for task in _tasks(rows):
        of_task = [row for row in rows if row.task == task]
        print(results.text(of_task, _shown(task, of_task)) + "\n")
    for note in content.notes:
        print(f"warning: {note}")
    print(f"page: {path}\nall numbers: {workdir / results.FILE}")
    outputs.finish()


def _open(config: EvaluateConfig) -> list[records.RecordSet]:
    """The sets of `config.data`, or all of the folder; a damaged one beside others costs a line of the log.

    Raises:
        UserError: one that is named is not there, or none can be opened.
    """
    names = places.set_names(config.data) or sets(config.data_dir)
    opened, folder = [], pathlib.Path(config.data_dir).expanduser()
    for name in names:
        is_there = (folder / name / contract.FILE).is_file()
        with trials.left_out(name, "all tasks") if len(names) > 1 and is_there else contextlib.nullcontext():
            opened.append(records.open_set(config.data_dir, name))
    if not opened:
        raise UserError(f"none of the sets {', '.join(names)} in {config.data_dir} can be opened: see the lines above")
    return opened


def _probe(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs
) -> list[results.Result]:
    shared = {name: getattr(config, name) for name in ("shares", "seeds", "ct_slices", "rows", *SHARED)}
    return _by_protocol(
        config, lambda name: probe.evaluate(trained, dataset, ProbeConfig(protocol=name, **shared), outputs)
    )


def _segment(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs
) -> list[results.Result]:
    table, known = [], dataset.contract["truth"]
    for target, field in dense.TARGETS.items():
        # The boxes are the target only where there are no lesion masks, as in RSNA.
        if field in known and not (target == "boxes" and dense.TARGETS["lesions"] in known):
            settings = SegmentConfig(target=target, **_section(config, "segment"))
            table += _by_protocol(
                config, lambda name, x=settings: segment.evaluate(trained, dataset, _with(x, name), outputs), *IN_CROPS
            )
    return table


def _detect(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs
) -> list[results.Result]:
    settings = DetectConfig(**_section(config, "detect"))
    return _by_protocol(config, lambda name: detect.evaluate(trained, dataset, _with(settings, name), outputs))


def _slices(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs
) -> list[results.Result]:
    """Of whole scans on one grid, or, where a set has its scans' own slices, in windows of these."""
    checked = slice_windows if native.has_own_slices(dataset) else hit_rates
    return checked.evaluate(trained, dataset, config, outputs)


def _candidates(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs
) -> list[results.Result]:
    jobs = {"ours": candidates.evaluate, "genesis": candidate_tuning.evaluate}
    asked = dataclasses.replace(config, protocol=",".join(name for name in config.protocols if name in jobs) or "ours")
    return _by_protocol(asked, lambda name: jobs[name](trained, dataset, config, outputs), *OF_CANDIDATES)


def _with(settings: Any, protocol: str) -> Any:
    return dataclasses.replace(settings, protocol=protocol)


def _by_protocol(
    config: EvaluateConfig, run: Callable[[str], list[results.Result]], *more: str
) -> list[results.Result]:
    """The rows of every protocol; one that a set does not fit costs the rows of the others nothing.

    `more` are those that a task has beside PROTOCOLS. Raises UserError where it has none of those asked for.
    """
    names = [name for name in config.protocols if name in (*PROTOCOLS, *more)]
    if not names:
        raise UserError(f"config.protocol={config.protocol} is of another task")
    rows: list[results.Result] = []
    for name in names:
        try:
            rows += run(name)
        except UserError as error:
            if name == names[-1] and not rows:
                raise
            LOG.info("protocol %s: left out: %s", name, error)
    return rows


def _section(config: EvaluateConfig, name: str) -> dict[str, Any]:
    """The settings of a task with a section of its own: those, what all tasks share, one seed, and whose they are."""
    shared = {field: getattr(config, field) for field in SHARED}
    return {**vars(getattr(config, name)), **shared, "seeds": config.seeds[:1], "job": config.job}


TASKS = {
    "probe": _probe,
    "retrieve": retrieve.evaluate,
    "slices": _slices,
    "candidates": _candidates,
    "segment": _segment,
    "detect": _detect,
}
JOINT = ("retrieve",)  # take all sets at once: X-rays of one are measured with CTs of another


def sets(data_dir: str | pathlib.Path) -> list[str]:
    """Names of the built sets of a folder."""
    names = sorted(path.parent.name for path in pathlib.Path(data_dir).expanduser().glob("*/contract.json"))
    return [name for name in names if not name.startswith(".")]


def _changed(config: EvaluateConfig) -> set[str]:
    """The tasks of our own recipe with other settings than the ones beside which a published figure may stand."""
    boxes = (segment.task_name("boxes", tune) for tune in segment.TUNES)
    tasks = {*boxes} if trials.changed(config.segment, "limit", "setr_channels", "xray") else set()
    return tasks | ({*detect.TASKS.values()} if trials.changed(config.detect, *detect.SETTINGS) else set())


def page_content(
    rows: Sequence[results.Result], evaluated: published.Evaluated, *, name: str, config: dict
) -> PageContent:
    """A table for every task, the trained network beside the untrained one and chance, then the published figures."""
    scalars = {"step": 0} | results.scalars(results.average(rows))
    tables = [_table(task, rows, set(scalars), evaluated) for task in _tasks(rows)]
    others, more = published.table(scalars, evaluated)
    return PageContent(
        name, config, {}, [scalars | more], [*tables, others], notes=retrieve.inverted(rows), kind="evaluation"
    )


def _tasks(rows: Sequence[results.Result]) -> list[str]:
    """The tasks that have rows, in the order of SHOWN, each before what it is called with other settings."""
    measured = {row.task for row in rows}
    return [name for task in SHOWN for name in (task, task + published.CHANGED) if name in measured]


def _shown(task: str, rows: Sequence[results.Result]) -> list[str]:
    """The metrics of a task that are shown, where its rows have them: a set need not know every finding."""
    measured = {row.metric for row in rows if row.task == task}
    return [metric for metric in SHOWN[task.removesuffix(published.CHANGED)] if metric in measured]


def _table(task: str, rows: Sequence[results.Result], known: set[str], evaluated: published.Evaluated) -> Table:
    metrics = _shown(task, rows)
    groups: dict[tuple[str, str, float], list[results.Result]] = {}
    for row in rows:
        if row.task == task:
            groups.setdefault((row.data, row.modality, row.share), []).append(row)
    lines = []
    for (data, modality, share), group in groups.items():
        start = "/".join(filter(None, (task, data, modality, f"{share:g}")))
        seeds, cases = len({row.seed for row in group}), max(row.cases for row in group)
        labels = "" if task.removesuffix(published.CHANGED) in WITHOUT_LABELS else f"{share:.0%} of labels"
        words = [data, modality, labels, f"{cases} cases", f"{seeds} seeds" if seeds > 1 else ""]
        words.append(published.mark(data, task, share, evaluated))  # of the published protocol: C, c or N
        lines.append(Row(", ".join(filter(None, words)), [_cell(start, metric, known) for metric in metrics]))
    note = (
        "Small figures under a number: 95 % bootstrap interval over patients, where one seed was run. Numbers of "
        "several seeds are means. Below chance: guessing does better. C, c, N at the end of a row: the published "
        "protocol of this set is comparable, close or not comparable (docs/protocols.md)."
    )
    if any(metric.endswith("/macro10") for metric in metrics):
        note += (
            f" macro10: mean over the findings with at least {auroc.FEWEST} positive and {auroc.FEWEST} negative test "
            "cases, n/a where there is none. The CSV has every finding."
        )
    return Table(task, ("", *metrics), lines, note)


def _cell(start: str, metric: str, known: set[str]) -> Cell:
    key = f"trained/{start}/{metric}"
    for prefix, chance in CHANCE.items():
        rest = metric.removeprefix(prefix)
        if metric.startswith(prefix) and rest.isdigit():
            chance = f"trained/{start}/{chance}{rest}"
            return Cell(key, chance, "chance", chance=chance)
    other, chance = f"untrained/{start}/{metric}", None
    if metric.startswith("auroc/"):
        chance = auroc.CHANCE
    elif metric.endswith("/hit_rate"):
        chance = key.replace("/hit_rate", "/random_rate")
    beside = {"beside": other, "beside_name": "untrained"} if other in known and not metric.endswith(BLIND) else {}
    return Cell(key, chance=chance, **beside)
