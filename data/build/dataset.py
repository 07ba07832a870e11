"""Source -> built set: the folder that training reads (DESIGN: records, tokenizer, preprocessing contract, ledger)."""

import collections
import contextlib
import dataclasses
import fcntl
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data import json_files, members, progress
from data.build import contracts, executors, pool, writer
from data.build.build_statistics import BuildStatistics
from data.errors import OverBudgetError, UserError
from data.manifest import privacy
from data.progress import Tick
from data.reports import tokenizer
from data.source import MODALITIES, SPLITS, Rejected, Source

LOG = logging.getLogger(__name__)
LEDGER = "rejected.jsonl"
FINISHED = "set"
Place = tuple[str, str]  # a modality and a split


@dataclasses.dataclass(frozen=True)
class Built:
    """The outcome of `build`. `made` is False if the set existed already.

    `otherwise` says in what the conditions differ now from those under which the rows of such a set were rejected.
    """

    folder: Path
    made: bool
    counts: dict[str, dict[str, int]]
    rejected: tuple[Rejected, ...]
    leaked: int
    notes: dict[str, int]
    otherwise: str = ""

    @property
    def total(self) -> int:
        """How many rows its source had."""
        return len(self.rejected) + sum(sum(splits.values()) for splits in self.counts.values())

    @property
    def second_try(self) -> str:
        """Why another build may reject fewer rows, and how to get one; "" where it would not."""
        remedy = "to try them again remove the folder, or choose another config.name"
        return f"they were rejected under other conditions ({self.otherwise}): {remedy}" if self.otherwise else ""


def build(
    source: Source, data_dir: Path, name: str, *, max_rejected: float = 1.0, workers: int = 0, beam: str | None = None
) -> Built:
    """Converts a source and writes `<data_dir>/<name>/`, whole or not at all; the same source gives the same bytes.

    An interrupted build leaves its finished shards in `<data_dir>/.<name>.building`; the next one resumes after them.
    Rows are converted by `workers` processes, or, with `beam`, in a pipeline of these options (`beam.converter`).
    If more than a share of `max_rejected` is rejected, only `<data_dir>/<name>.rejected.jsonl` is written, and the
    finished shards stay for a build that may reject more.
    A source without training rows makes a set for evaluation. Raises UserError for a name taken by another source and
    for no row left of those that train (of any, in a set for evaluation), OverBudgetError for too many rejects, of a
    set that existed already too.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"config.name is '{name}': use letters, digits, '_', '-' and '.', not '-' or '.' first")
    folder = data_dir / name
    make_folder(data_dir)
    staging = data_dir / f".{name}.building"
    with _alone_in(data_dir):
        known = _built_before(folder, source)
        if known is not None:
            shutil.rmtree(staging, ignore_errors=True)
            if reason := over_budget(len(known.rejected), known.total, max_rejected):
                remedy = known.second_try or f"see {readable_ledger(folder)}"
                raise OverBudgetError(f"{folder} was built before and stays, but {reason}; {remedy}")
            return known
        _prepare(staging, source)
        shards, statistics = _convert(source, staging, workers=workers, beam=beam)
        _check_outcome(statistics, max_rejected, folder, staging, for_training=source.for_training)
        _assemble(source, shards, statistics, staging / FINISHED, name)
        ledger = readable_ledger(folder)
        ledger.unlink(missing_ok=True)  # of another set of this name
        if statistics.rejected:
            _write_ledger(ledger, statistics.rejected_in_order())
        (staging / FINISHED).rename(folder)
        shutil.rmtree(staging, ignore_errors=True)
    rejected, leaked = statistics.rejected_in_order(), statistics.leaked()
    return Built(folder, True, statistics.counts(), rejected, leaked, dict(statistics.notes))


def readable_ledger(folder: Path) -> Path:
    """The ledger beside a set, with the user's own paths; the LEDGER in the set, which is passed on, has hashes."""
    return folder.with_name(f"{folder.name}.{LEDGER}")


def make_folder(data_dir: Path) -> None:
    """Makes the folder of sets. Raises UserError if that fails."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"config.data_dir {data_dir} cannot be made: {error.strerror}") from error


def over_budget(rejected: int, total: int, max_rejected: float) -> str:
    """The reason against a set with so many rejects, or nothing. `max_rejected` is a share of all rows."""
    if rejected <= max_rejected * total:
        return ""
    limit = f"config.max_rejected={max_rejected:g}" if max_rejected else "config.strict (or config.max_rejected=0)"
    return f"{rejected} of {total} rows were rejected, more than {limit} allows: mend them, or allow more"


def _check_outcome(
    statistics: BuildStatistics, max_rejected: float, folder: Path, staging: Path, *, for_training: bool
) -> None:
    rejected = len(statistics.rejected)
    needed = ("train",) if for_training else SPLITS
    if not any(statistics.accepted[modality, split] for modality in MODALITIES for split in needed):
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(_why_not(statistics, "train" if for_training else "evaluate"))
    if reason := over_budget(rejected, statistics.total() + rejected, max_rejected):
        _write_ledger(ledger := readable_ledger(folder), statistics.rejected_in_order())
        raise OverBudgetError(
            f"{reason}: no set was made; see {ledger}. What was converted stays in {staging}, and a build of the same "
            "rows resumes from there"
        )


def _prepare(staging: Path, source: Source) -> None:
    """Removes what an interrupted build left, unless it began as this one does; then its shards stay."""
    began = (contracts.rules(source.organs, source.grid), contracts.libraries(), source.limits)
    mark, facts = staging / "source", f"{contracts.fingerprint(source)} {json.dumps(began, sort_keys=True)}"
    if not mark.exists() or mark.read_text(encoding="utf-8") != facts:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        mark.write_text(facts, encoding="utf-8")
    shutil.rmtree(staging / FINISHED, ignore_errors=True)


@contextlib.contextmanager
def _alone_in(data_dir: Path) -> Iterator[None]:
    """Waits for other builds in the same folder. The system releases the lock however the process ends."""
    handle = os.open(data_dir, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives have no locks
            _lock(handle, data_dir)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, data_dir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        LOG.info("another build works in %s: waiting for its end", data_dir)
        fcntl.flock(handle, fcntl.LOCK_EX)


def _built_before(folder: Path, source: Source) -> Built | None:
    if not folder.exists():
        return None
    remedy = "choose another config.name or remove the folder"
    try:
        facts = json.loads((folder / contracts.FILE).read_text(encoding="utf-8"))
        beside, inside = readable_ledger(folder), folder / LEDGER
        lines = (beside if beside.exists() else inside).read_text(encoding="utf-8").splitlines()
        rejected = tuple(Rejected(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError, RecursionError):
        raise UserError(f"{folder} exists and is not a built set: {remedy}") from None
    if facts.get("source_fingerprint") != contracts.fingerprint(source):
        raise UserError(f"{folder} was built from another source, or from files that have changed since: {remedy}")
    otherwise = ", ".join(contracts.otherwise(facts, source)) if rejected else ""
    leaked, notes = facts["pictures_in_two_splits"], facts.get("notes", {})
    return Built(folder, False, facts["splits"], rejected, leaked, notes, otherwise)


def _convert(
    source: Source, staging: Path, *, workers: int, beam: str | None
) -> tuple[dict[Place, writer.Shards], BuildStatistics]:
    """Converts every row into shards in `staging`, starting after the finished ones."""
    statistics = BuildStatistics(list(source.rejected))
    shards = {
        (modality, split): writer.Shards(staging / "parts" / modality, split, writer.features(source, modality))
        for modality, split in itertools.product(MODALITIES, SPLITS)
    }
    rows = {place: [row for row in source.rows if (row.modality, row.split) == place] for place in shards}
    left = {place: rows[place][shards[place].rows :] for place in shards}
    unfinished = dataclasses.replace(source, rows=list(itertools.chain(*left.values())))
    converting = executors.converter(unfinished, workers, beam, staging / "beam")
    done = len(source.rows) - len(unfinished.rows)
    with converting as convert, progress.shown(len(source.rows), "rows", done=done) as tick:
        for place in shards:
            _fill(shards[place], place, convert(left[place]), statistics, tick)
    return shards, statistics


def _assemble(
    source: Source, shards: dict[Place, writer.Shards], statistics: BuildStatistics, folder: Path, name: str
) -> None:
    """Makes the new folder of a set of its finished shards."""
    folder.mkdir()
    for modality in MODALITIES:
        splits = {split: shards[modality, split] for split in SPLITS if shards[modality, split].done}
        if splits:
            writer.assemble(folder, modality, writer.features(source, modality), splits)
    if words := _vocabulary(source, statistics):
        tokenizer.save(tokenizer.train(words), folder / "tokenizer")
    rejected = statistics.rejected_in_order()
    hidden = (dataclasses.replace(one, path=privacy.pseudonym(one.path, source.salt)) for one in rejected)
    _write_ledger(folder / LEDGER, hidden)
    members.write(folder, members.describe(statistics.patients, statistics.pictures, source.salt))
    facts = contracts.make(source, statistics, name=name, folder=folder)
    (folder / contracts.FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _vocabulary(source: Source, statistics: BuildStatistics) -> list[str]:
    """Texts for the vocabulary: the training reports, or the prompts where there are none."""
    prompts = [text for pair in source.prompts.values() for side in pair.values() for text in side]
    return sorted(filter(None, statistics.reports)) or sorted(prompts)


def _fill(
    shards: writer.Shards, place: Place, converted: Iterable[pool.Converted], statistics: BuildStatistics, tick: Tick
) -> None:
    """Writes the rows of one split that no finished shard holds; the statistics get all of them."""
    for index, facts in enumerate(shards.done):
        for example, aside in zip(shards.examples(index), facts["aside"], strict=True):
            statistics.add(*place, example, aside["notes"])
            statistics.rejected += [Rejected(**one) for one in aside["rejected"]]
    waiting: list[dict[str, Any]] = []
    for at, (_, result) in enumerate(converted, start=shards.rows + 1):
        tick(1)
        if isinstance(result, Rejected):
            statistics.rejected.append(result)
            waiting.append(dataclasses.asdict(result))
            continue
        notes = list(result.pop("notes", ()))
        statistics.add(*place, result, notes)
        shards.write(result, at, {"notes": notes, "rejected": waiting})
        waiting = []
    shards.finish()


def _write_ledger(path: Path, rejected: Iterable[Rejected]) -> None:
    lines = [json_files.line(dataclasses.asdict(r)) for r in rejected]
    path.write_text("".join(lines), encoding="utf-8")


def _why_not(statistics: BuildStatistics, use: str) -> str:
    """What is missing, and the commonest reasons, in one line."""
    codes = collections.Counter(one.code for one in statistics.rejected)
    reasons = ", ".join(f"{count} {code}" for code, count in codes.most_common(5)) or "none"
    what = "no row was accepted, so no set was made. Rejected"
    if others := statistics.total():
        what = f"no row is left to {use} on, so no set was made. Accepted for other splits: {others}; rejected"
    return f"{what}: {reasons}. config.dry_run=True lists the rows"
