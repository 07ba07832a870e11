"""The build job: a raw source becomes the set of records that training reads, or the doctor's page about it."""

import collections
import os
import shutil
from pathlib import Path
from typing import Any

from data import choices, contracts, doctor, doctor_page, manifest, phantom, privacy, records, runner, volumes
from data.source import SPLITS, Source
from unimedi_jax import errors

PHANTOM_NAME = "phantom"


def run(config: Any, workdir: Path) -> None:
    """Builds (or with `config.dry_run` only examines) the set of a `configs/build.py` config and prints a summary.

    A rejected row is listed in the set's `rejected.jsonl` and stops nothing, up to a share of `config.max_rejected`
    (none with `config.strict`). Above it no set is made, and OverBudgetError is raised.
    """
    data_dir = Path(config.data_dir).expanduser()
    budget = 0.0 if config.strict else config.max_rejected
    beam = runner.options(config.runner, config.beam)
    if config.dry_run:
        _examine(config, workdir, budget, beam)
        return
    records.make_folder(data_dir)
    built = records.build(
        _source(config, data_dir),
        data_dir=data_dir,
        name=config.name,
        max_rejected=budget,
        workers=config.workers,
        beam=beam,
    )
    print(summary(built))


def ensure_phantom(data_dir: str | Path) -> None:
    """Builds the embedded phantom with its default settings under its default name, unless it is there."""
    if (Path(data_dir) / PHANTOM_NAME / contracts.FILE).exists():
        return
    built = records.build(phantom.source(), data_dir=Path(data_dir), name=PHANTOM_NAME)
    print(summary(built))


def _examine(config: Any, workdir: Path, budget: float, beam: str | None) -> None:
    source = _source(config, None)
    scratch = workdir / "beam"
    shutil.rmtree(scratch, ignore_errors=True)  # of an interrupted look, perhaps at another source
    converting = runner.opened(source, config.workers, beam, scratch)
    found = doctor.examine(source, converting, report_length=config.report_length)
    folder = Path(config.source).expanduser().parent if config.kind == "manifest" else None
    page = doctor_page.write(workdir, found, source, folder)
    print(doctor.table(found))
    print(f"page: {page}\nno set was written (config.dry_run)")
    if rows := found["patients_in_two_splits"]:
        raise errors.UserError(f"{len(rows)} rows belong to patients in two splits: give each patient one, see {page}")
    if reason := records.over_budget(found["rejected"], found["rows"], budget):
        raise errors.OverBudgetError(reason)


def _source(config: Any, data_dir: Path | None) -> Source:
    """The source that a config names; without a folder for the set there is no salt, and nothing keeps the ids."""
    if config.kind == "phantom":
        return phantom.source(xrays=config.xrays, cts=config.cts, seed=config.seed, language=config.language)
    if not config.source:
        raise errors.UserError(
            "config.source is empty: name the CSV, as in --config.source=films.csv "
            f"({', '.join(manifest.REQUIRED)}, ...)"
        )
    chosen = choices.Choices(
        uncertain=config.uncertain,
        language=config.language,
        sections=tuple(filter(None, (part.strip() for part in config.sections.split(",")))),
        keep_ids=config.keep_ids,
        scans=volumes.Rules(config.assume, config.min_slices),
    )
    salt = config.salt or (privacy.salt_of(data_dir) if data_dir else "")
    return manifest.read(Path(config.source).expanduser(), chosen, salt)


def summary(built: records.Built) -> str:
    """The counts as a table, the reasons of the rejects, where the set is and what comes next."""
    lines = ["", f"{'accepted':<16}" + "".join(f"{split:>8}" for split in SPLITS)]
    for modality, counts in built.counts.items():
        lines.append(f"  {modality:<14}" + "".join(f"{counts[split]:>8}" for split in SPLITS))
    codes = collections.Counter(one.reason.partition(":")[0] for one in built.rejected)
    lines.append(f"{'rejected':<16}{len(built.rejected):>8}")
    lines += [f"  {code:<22}{count:>8}" for code, count in codes.most_common()]
    if built.notes:
        lines.append("noted in accepted rows")
        lines += [f"  {code:<22}{count:>8}" for code, count in sorted(built.notes.items())]
    if built.leaked:
        lines.append(f"warning: {built.leaked} pictures are, pixel by pixel, in more than one split")
    if built.rejected:
        lines.append(f"rows left out, with reasons: {built.folder / records.LEDGER}")
    lines.append(f"{'built' if built.made else 'already built'}: {built.folder}{os.sep}")
    lines.append(
        "next: python main.py --config=configs/pretrain.py:demo "
        f"--config.data={built.folder.name} --config.data_dir={built.folder.parent}"
    )
    return "\n".join(lines)
