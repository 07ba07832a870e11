"""The build job: a raw source becomes the set of records that training reads."""

import collections
import os
from pathlib import Path
from typing import Any

from data import manifest, phantom, records
from data.source import SPLITS, Source
from unimedi_jax import errors

PHANTOM_NAME = "phantom"
SHOWN_REJECTS = 10


def run(config: Any) -> None:
    """Builds (or with `config.dry_run` only examines) the set of a `configs/build.py` config and prints a summary.

    A rejected row is listed in the set's `rejected.jsonl` and stops nothing. With `config.strict` one is enough:
    no set is made, the ledger goes to `<data_dir>/<name>.rejected.jsonl`, and UserError is raised.
    """
    built = records.build(
        _source(config),
        data_dir=Path(config.data_dir).expanduser(),
        name=config.name,
        strict=config.strict,
        dry_run=config.dry_run,
        workers=config.workers,
    )
    print(summary(built, dry_run=config.dry_run))
    if config.dry_run and config.strict and built.rejected:
        raise errors.UserError(f"{len(built.rejected)} rows would be rejected and config.strict is set")


def ensure_phantom(data_dir: str | Path) -> None:
    """Builds the embedded phantom with its default settings under its default name, unless it is there."""
    if (Path(data_dir) / PHANTOM_NAME / records.CONTRACT).exists():
        return
    built = records.build(phantom.source(), data_dir=Path(data_dir), name=PHANTOM_NAME)
    print(summary(built, dry_run=False))


def _source(config: Any) -> Source:
    """The source that a config names."""
    if config.kind == "phantom":
        return phantom.source(xrays=config.xrays, cts=config.cts, seed=config.seed, language=config.language)
    if not config.source:
        raise errors.UserError(
            "config.source is empty: name the CSV, as in --config.source=films.csv "
            f"({', '.join(manifest.REQUIRED)}, ...)"
        )
    return manifest.read(Path(config.source).expanduser())


def summary(built: records.Built, *, dry_run: bool) -> str:
    """The counts as a table, the reasons of the rejects, where the set is and what comes next."""
    lines = ["", f"{'accepted':<16}" + "".join(f"{split:>8}" for split in SPLITS)]
    for modality, counts in built.counts.items():
        lines.append(f"  {modality:<14}" + "".join(f"{counts[split]:>8}" for split in SPLITS))
    codes = collections.Counter(one.reason.partition(":")[0] for one in built.rejected)
    lines.append(f"{'rejected':<16}{len(built.rejected):>8}")
    lines += [f"  {code:<14}{count:>8}" for code, count in codes.most_common()]
    if built.leaked:
        lines.append(f"warning: {built.leaked} pictures are, pixel by pixel, in more than one split")
    if dry_run:
        lines += [f"  row {r.row}: {r.path}: {r.reason}" for r in built.rejected[:SHOWN_REJECTS]]
        if len(built.rejected) > SHOWN_REJECTS:
            lines.append(f"  and {len(built.rejected) - SHOWN_REJECTS} more")
        return "\n".join([*lines, "nothing was written (config.dry_run)"])
    if built.rejected:
        lines.append(f"rows left out, with reasons: {built.folder / records.LEDGER}")
    lines.append(f"{'built' if built.made else 'already built'}: {built.folder}{os.sep}")
    lines.append(
        "next: python main.py --config=configs/pretrain.py:demo "
        f"--config.data={built.folder.name} --config.data_dir={built.folder.parent}"
    )
    return "\n".join(lines)
