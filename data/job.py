"""The build job: a raw source becomes the set of records that training reads, or the doctor's page about it."""

import collections
import dataclasses
import functools
import math
import os
import shutil
from pathlib import Path
from typing import Any

from data import next_step, record_grid
from data.buckets import mirror
from data.build import contracts, dataset, executors
from data.checks import doctor, doctor_page
from data.errors import OverBudgetError, UserError
from data.manifest import options, privacy, table
from data.manifest import source as manifest
from data.phantom import options as phantom_options
from data.phantom import source as phantom
from data.readers import ct_records, geometry, memory, reduced, volumes
from data.record_grid import RecordGrid
from data.reports import sections
from data.sets import dataset_index, translate
from data.sets import source as public
from data.source import SPLITS, Source

PHANTOM_NAME = "phantom"
LEAST_MEMORY_GB = 0.5  # libraries, and one slab
TRANSLATED = ".translations"  # the folder of sentences that have been translated


def run(config: Any, workdir: Path) -> None:
    """Builds (or with `config.dry_run` only examines) the set of a `configs/build.py` config and prints a summary.

    A row that cannot be used is skipped and logged beside the set, in `<name>.rejected.jsonl`. Raises OverBudgetError,
    and makes no set, if more than a share of `config.max_rejected` (with `config.strict` any row) is rejected.
    """
    data_dir = Path(config.data_dir).expanduser()
    budget = 0.0 if config.strict else config.max_rejected
    _check_memory(config.worker_memory_gb)
    beam = executors.options(config.runner, config.beam)
    if config.dry_run:
        _examine(config, workdir, budget, beam)
        return
    dataset.make_folder(data_dir)
    source = _limited(_reduced(_source(config, data_dir, workdir), config), config.worker_memory_gb)
    built = dataset.build(source, data_dir, config.name, max_rejected=budget, workers=config.workers, beam=beam)
    print(summary(built, silent=source.contract.get("reports", True) is None, grid=source.grid))


def ensure_phantom(data_dir: str | Path) -> None:
    """Builds the built-in phantom with its default settings under its default name, unless it is there."""
    folder = Path(data_dir).expanduser()
    if (folder / PHANTOM_NAME / contracts.FILE).exists():
        return
    built = dataset.build(phantom.source(), folder, PHANTOM_NAME)
    print(summary(built))


def _examine(config: Any, workdir: Path, budget: float, beam: str | None) -> None:
    source = _limited(_reduced(_source(config, None, workdir), config), config.worker_memory_gb)
    scratch = workdir / "beam"
    shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted run, perhaps with another source
    converting = executors.converter(source, config.workers, beam, scratch)
    examined = doctor.examine(source, converting, report_length=config.report_length)
    page = doctor_page.write(workdir, examined, source, _folder(config))
    print(doctor.table(examined))
    print(f"page: {page}\nno set was written (config.dry_run)")
    if rows := examined["patients_in_two_splits"]:
        raise UserError(f"{len(rows)} rows belong to patients in two splits: give each patient one, see {page}")
    if reason := dataset.over_budget(examined["rejected"], examined["rows"], budget):
        raise OverBudgetError(reason)


def _check_memory(gigabytes: float) -> None:
    if not LEAST_MEMORY_GB <= gigabytes < float("inf"):
        raise UserError(f"config.worker_memory_gb is {gigabytes:g}: at least {LEAST_MEMORY_GB:g}")


def _limited(source: Source, gigabytes: float) -> Source:
    """The source, whose rows are read under a limit of memory."""
    convert = functools.partial(memory.limited, source.convert, gigabytes)
    return dataclasses.replace(source, convert=convert, limits={"worker_memory_gb": gigabytes})


def _reduced(source: Source, config: Any) -> Source:
    """The source, whose JPEGs are decoded at a reduced scale unless they are to be exact; its contract says so."""
    if config.get("exact_jpeg", True):
        return source
    size = config.get("film_size", geometry.XRAY_SIZE)
    convert = functools.partial(reduced.under, source.convert, reduced.TIMES * size)
    return dataclasses.replace(source, convert=convert, contract=source.contract | {"jpeg": reduced.rule(size)})


def _folder(config: Any) -> Path | None:
    """The folder to which the paths of a source's rows are relative."""
    if config.kind == "phantom":
        return None
    place = Path(config.source).expanduser()
    return place.parent if config.kind == "manifest" else place


def _grid(config: Any) -> RecordGrid:
    """The grid that a config asks for. Raises UserError where no worker could hold one record of it."""
    grid = record_grid.of_settings(config.film_size, config.volume, config.spacing_mm, config.crop_to)
    needed = memory.LIBRARIES + ct_records.RECORD_BYTES * math.prod(grid.volume)
    if needed > config.worker_memory_gb * memory.GIGABYTE:
        raise UserError(
            f"config.volume={grid.volume} takes {needed / memory.GIGABYTE:.1f} GB per worker, besides the scan "
            f"itself, but config.worker_memory_gb is {config.worker_memory_gb:g}: raise it, or lower config.volume"
        )
    return grid


def _source(config: Any, data_dir: Path | None, workdir: Path) -> Source:
    """The source that a config names. Without `data_dir`, for a dry run, ids are hashed without a salt."""
    grid = _grid(config)
    if config.kind == "phantom":
        fields = dataclasses.fields(phantom_options.Options)
        chosen = phantom_options.Options(**{field.name: config[field.name] for field in fields})
        counts = {"xrays": config.xrays, "cts": config.cts}
        return phantom.source(**counts, seed=config.seed, language=config.language, options=chosen, grid=grid)
    salt = config.salt or (privacy.salt_of(data_dir) if data_dir else "")
    if config.kind != "manifest":
        return _public(config, salt, workdir, grid)
    if not config.source:
        raise UserError(
            f"config.source is empty: name the CSV, as in --config.source=my.csv ({', '.join(table.REQUIRED)}, ...)"
        )
    order, scans = dataset_index.words(config.sections), volumes.Rules(config.assume, config.min_slices)
    chosen = options.Options(config.uncertain, config.language, order, config.keep_ids, scans, grid)
    path = Path(config.source).expanduser()
    source = manifest.read(path, chosen, salt)
    if not source.rows and not source.rejected:
        raise UserError(f"{path} has nothing to build: looked for rows below its first line, which names the columns")
    return source


def _public(config: Any, salt: str, workdir: Path, grid: RecordGrid) -> Source:
    """The source of a public set; prints its counts beside the published ones."""
    if not config.source:
        raise UserError(
            "config.source is empty: name the root of the download, as in --config.source=/data/"
            f"{config.kind} (data/README.md links to its tree)"
        )
    reports = _reports(config.report, Path(config.data_dir).expanduser(), workdir) if "report" in config else None
    root, chosen = Path(config.source).expanduser(), config.options.to_dict()
    source = public.source(config.kind, root, chosen, reports, keep_ids=config.keep_ids, salt=salt, grid=grid)
    print(public.summary(source))
    return source


def _reports(report: Any, data_dir: Path, workdir: Path) -> public.Reports:
    order = dataset_index.words(report.order)
    policy = sections.Policy(order, report.empty, report.blanks, report.style, report.longest)
    to_english = None
    if report.translations:
        to_english = translate.Table(Path(report.translations).expanduser())
    elif report.translator:
        cache, page = data_dir / TRANSLATED, workdir / "translations.csv"
        models = (report.translator, report.back_translator)
        to_english = translate.Marian(*models, cache, page, drop_doubtful=report.drop_doubtful)
    return public.Reports(policy, report.language, report.foreign, to_english)


def summary(built: dataset.Built, *, silent: bool = False, grid: RecordGrid = record_grid.DEFAULT) -> str:
    """The counts as a table, the reasons of the rejects, where the set is and the next command (`next_step.lines`)."""
    lines = ["", f"{'accepted':<16}" + "".join(f"{split:>8}" for split in SPLITS)]
    for modality, counts in built.counts.items():
        lines.append(f"  {modality:<14}" + "".join(f"{counts[split]:>8}" for split in SPLITS))
    codes = collections.Counter(one.code for one in built.rejected)
    lines.append(f"{'rejected':<16}{len(built.rejected):>8}")
    lines += [f"  {code:<22}{count:>8}" for code, count in codes.most_common()]
    if built.notes:
        lines.append("noted in accepted rows")
        lines += [f"  {code:<22}{count:>8}" for code, count in sorted(built.notes.items())]
    if built.leaked:
        lines.append(f"warning: {built.leaked} pictures are, pixel by pixel, in more than one split")
    if built.rejected:
        lines.append(f"rows left out, with reasons: {dataset.readable_ledger(built.folder)}")
    if built.second_try:
        lines.append(f"warning: {built.second_try}")
    lines.append(f"{'built' if built.made else 'already built'}: {mirror.named(str(built.folder))}{os.sep}")
    lines += next_step.lines(built.folder, built.counts, silent=silent, made=built.made, grid=grid)
    return "\n".join(lines)
