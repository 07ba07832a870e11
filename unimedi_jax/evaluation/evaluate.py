"""Everything that a data folder allows to measure of one checkpoint: one page, one CSV."""

import json
import logging
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from data.errors import UserError
from unimedi_jax.evaluation import detect, opened, probe, results, retrieve, segment
from unimedi_jax.inference import features
from unimedi_jax.input import dense, records
from unimedi_jax.metrics import slices
from unimedi_jax.report import page, published
from unimedi_jax.report.content import Cell, PageContent, Row, Table

LOG = logging.getLogger(__name__)
TASKS = ("probe", "retrieve", "slices", "segment", "detect")
SLICES = "slices"
# What the page shows of each task; the CSV has all.
SHOWN = {
    probe.TASKS["linear"]: probe.METRICS,
    retrieve.ZEROSHOT: ("auroc/macro", "auprc/macro"),
    retrieve.REPORTS: ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"),
    retrieve.ACROSS: ("p5", "p10", "hit5"),
    retrieve.PRECISION: ("p5", "p10", "p100"),
    SLICES: ("any/hit_rate", "any/random_rate", "any/fixed_rate", "centre/hit_rate", "centre/random_rate"),
    **{
        segment.task_name(target, tune): (*segment.METRICS, "dice_present/mean")
        for target in dense.TARGETS
        for tune in segment.TUNES
    },
    **dict.fromkeys(detect.TASKS.values(), detect.METRICS),
}
# What nothing is trained for, and so no share of labels belongs to.
WITHOUT_LABELS = (retrieve.ZEROSHOT, retrieve.REPORTS, retrieve.ACROSS, retrieve.PRECISION, SLICES)
BLIND = ("/random_rate", "/fixed_rate")  # of slices chosen without a look: the same for every network
CHANCE = {"i2t_r": "chance_r", "t2i_r": "chance_r", "p": "chance_p", "hit": "chance_hit"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs `configs/evaluate.py`: `results.csv` and `index.html` in `workdir`, a table on the terminal."""
    tasks = tuple(filter(None, config.tasks.split(",")))
    if not tasks or set(tasks) - set(TASKS):
        raise UserError(f"config.tasks is a comma-separated list of {', '.join(TASKS)}, not {config.tasks!r}")
    trained = opened.open_run(config.checkpoint, network=config.network)
    names = [name for name in config.data.split(",") if name] or sets(config.data_dir)
    rows: list[results.Result] = []
    for name in names:
        for task in tasks:
            try:
                rows += _measure(trained, config, name, task)
            except UserError as error:  # what one set lacks must not cost the others their numbers
                LOG.info("%s, %s: left out: %s", name, task, error)
    if not rows:
        raise UserError(f"nothing could be evaluated on {', '.join(names)} in {config.data_dir}: see the lines above")
    results.write_csv(workdir / "results.csv", rows)
    content = page_content(rows, name=workdir.name, config=json.loads(config.to_json_best_effort()))
    # No report text is on this page; the contract of the reports' job stays with theirs.
    path = page.write(workdir / "index.html", content, show_reports=True)
    for task, metrics in SHOWN.items():
        if of_task := [row for row in rows if row.task == task]:
            print(results.text(of_task, metrics) + "\n")
    for note in content.notes:
        print(f"warning: {note}")
    print(f"page: {path}\nall numbers: {workdir / 'results.csv'}")


def sets(data_dir: str | pathlib.Path) -> list[str]:
    """Names of the built sets of a folder."""
    names = sorted(path.parent.name for path in pathlib.Path(data_dir).glob("*/contract.json"))
    return [name for name in names if not name.startswith(".")]


def page_content(rows: Sequence[results.Result], *, name: str, config: dict) -> PageContent:
    """A table for every task, the trained network beside the untrained one and chance, then the published figures."""
    scalars = {"step": 0} | results.scalars(results.average(rows))
    tables = [_table(task, metrics, rows, set(scalars)) for task, metrics in SHOWN.items()]
    others, more = published.table(scalars)
    return PageContent(
        name=name,
        config=config,
        contract={},
        metrics=[scalars | more],
        tables=[*(table for table in tables if table.rows), others],
        notes=retrieve.inverted(rows),
        kind="evaluation",
    )


def _table(task: str, metrics: Sequence[str], rows: Sequence[results.Result], known: set[str]) -> Table:
    groups: dict[tuple[str, str, float], list[results.Result]] = {}
    for row in rows:
        if row.task == task:
            groups.setdefault((row.data, row.modality, row.share), []).append(row)
    lines = []
    for (data, modality, share), group in groups.items():
        start = "/".join(filter(None, (task, data, modality, f"{share:g}")))
        seeds, cases = len({row.seed for row in group}), max(row.cases for row in group)
        words = [
            data,
            modality,
            "" if task in WITHOUT_LABELS else f"{share:.0%} of labels",
            f"{cases} cases",
            f"{seeds} seeds" if seeds > 1 else "",
        ]
        lines.append(Row(", ".join(filter(None, words)), [_cell(start, metric, known) for metric in metrics]))
    note = (
        "Small figures under a number: 95 % bootstrap interval over cases, where one seed was run. Numbers of several "
        "seeds are means."
    )
    return Table(task, ("", *metrics), lines, note)


def _cell(start: str, metric: str, known: set[str]) -> Cell:
    key = f"trained/{start}/{metric}"
    for prefix, chance in CHANCE.items():
        rest = metric.removeprefix(prefix)
        if metric.startswith(prefix) and rest.isdigit():
            return Cell(key, f"trained/{start}/{chance}{rest}", "chance")
    other = f"untrained/{start}/{metric}"
    return Cell(key, other, "untrained") if other in known and not metric.endswith(BLIND) else Cell(key)


def _measure(trained: opened.Opened, config: ml_collections.ConfigDict, name: str, task: str) -> list[results.Result]:
    where = dict(data_dir=config.data_dir, data=name)
    common = dict(encoders=opened.encoders(config.untrained), resamples=config.resamples)
    embedding = dict(ct_slices=config.ct_slices, rows=config.rows)
    if task == "probe":
        return probe.evaluate(trained, shares=config.shares, seeds=config.seeds, **where, **common, **embedding)
    if task == "retrieve":
        return retrieve.evaluate(trained, each=config.each, **where, **common, **embedding)
    if task == "slices":
        return hit_rates(trained, rows=config.rows, **where, **common)
    if task == "detect":
        chosen = config.detect
        return detect.evaluate(
            trained,
            tunes=tuple(chosen.tune.split(",")),
            shares=chosen.shares,
            seeds=config.seeds[:1],
            limit=chosen.limit,
            most=chosen.most,
            widths=tuple(chosen.widths),
            lowest=chosen.lowest,
            confidence=chosen.confidence,
            overlap=chosen.overlap,
            recipe=dict(chosen.recipe),
            **where,
            **common,
        )
    found = records.open_set(config.data_dir, name)
    settings = config.segment
    table, known = [], found.contract["truth"]
    for target, field in dense.TARGETS.items():
        # Boxes stand for a mask where there is none, as RSNA's do.
        if field in known and not (target == "boxes" and dense.TARGETS["lesions"] in known):
            table += segment.evaluate(
                trained,
                modality="",
                target=target,
                tunes=tuple(settings.tune.split(",")),
                shares=settings.shares,
                seeds=config.seeds[:1],
                limit=settings.limit,
                windows=False,
                tolerance=settings.tolerance,
                setr_channels=tuple(settings.setr_channels),
                unetr_features=settings.unetr_features,
                recipes={"xray": dict(settings.xray), "ct": dict(settings.ct)},
                **where,
                **common,
            )
    return table


def hit_rates(
    trained: opened.Opened, *, data_dir: str, data: str, encoders: Sequence[str], rows: int, resamples: int
) -> list[results.Result]:
    """Whether the slices that eq. 2 chooses show the lesion, beside the exact rate of a blind choice in these CTs
    and that of the layers that hit most training CTs.

    `any` counts every slice with a lesion; `centre` those within three slices of its middle, as the paper on LUNA16.
    """
    found = records.open_set(data_dir, data)
    if "lesion_mask" not in found.contract["truth"] or not found.size("ct", "test"):
        raise UserError("no CT test records with a lesion mask")
    if not trained.model.slices:
        raise UserError("the model was trained without slices")
    trained.check(found, ("ct",))
    embedder = trained.embedder(rows=rows, ct_slices=False)
    sampler = trained.sampler("ct", keep=("report", "labels", "lesion_mask"))
    names, k = [*found.contract["labels"], "unstated"], trained.model.slices
    trained_on = found.source("ct", "train", ("lesion_mask",)) if found.size("ct", "train") else ()
    drawn = [slices.lesion_slices(record["lesion_mask"][None], len(names) - 1)[0] for record in trained_on]
    table = []
    for name in encoders:
        part = features.embed(embedder, trained.variables(name), found, sampler, "test", limit=0)
        rates = slices.by_finding(part.slice_scores, part.lesions, k, names, resamples=resamples)
        layers = part.slice_scores.shape[1]
        fixed = slices.fixed_rates(np.stack(drawn), part.lesions, names, layers=layers, k=k) if drawn else {}
        near = slices.around_centre(part.lesions)
        rates["centre"] = slices.hit_rate(part.slice_scores, near, k, resamples=resamples)
        for finding, rate in rates.items():
            scalars = {f"{finding}/{key}": value for key, value in rate.scalars().items()} if rate.cases else {}
            if finding in fixed:
                scalars[f"{finding}/fixed_rate"] = fixed[finding]
            table += results.of(scalars, task=SLICES, data=data, modality="ct", encoder=name, cases=rate.cases)
    return table
