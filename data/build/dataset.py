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
    """The outcome of `build`. `made` is False if the set existed already."""

    folder: Path
    made: bool
    counts: dict[str, dict[str, int]]
    rejected: tuple[Rejected, ...]
    leaked: int
    notes: dict[str, int]


def build(
    source: Source, data_dir: Path, name: str, *, max_rejected: float = 1.0, workers: int = 0, beam: str | None = None
) -> Built:
    """Converts a source and writes `<data_dir>/<name>/`, whole or not at all; the same source gives the same bytes.

    An interrupted build leaves its finished shards in `<data_dir>/.<name>.building`; the next one resumes after them.
    Rows are converted by `workers` processes, or, with `beam`, in a pipeline of these options (`beam.converter`).
    If more than a share of `max_rejected` is rejected, only `<data_dir>/<name>.rejected.jsonl` is written.
    A source without training rows makes a set for evaluation. Raises UserError for a name taken by another source and
    for no row left of those that train (of any, in a set for evaluation), OverBudgetError for too many rejects.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"config.name is '{name}': use letters, digits, '_', '-' and '.', not '-' or '.' first")
    folder = data_dir / name
    make_folder(data_dir)
    staging = data_dir / f".{name}.building"
    with _alone_in(data_dir):
        known = _built_before(folder, contracts.fingerprint(source))
        if known is not None:
            shutil.rmtree(staging, ignore_errors=True)
            return known
        _prepare(staging, source)
        statistics = _write(source, staging, name=name, workers=workers, beam=beam)
        try:
            ledger = readable_ledger(folder)
            _check_outcome(statistics, max_rejected, ledger, for_training=source.for_training)
            ledger.unlink(missing_ok=True)  # of another set of this name
            if statistics.rejected:
                _write_ledger(ledger, statistics.rejected_in_order())
            (staging / FINISHED).rename(folder)
        finally:
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
    limit = f"config.max_rejected={max_rejected:g}"
    return f"{rejected} of {total} rows were rejected, more than {limit} allows: mend them, or raise it"


def _check_outcome(statistics: BuildStatistics, max_rejected: float, ledger: Path, *, for_training: bool) -> None:
    rejected = len(statistics.rejected)
    needed = ("train",) if for_training else SPLITS
    if not any(statistics.accepted[modality, split] for modality in MODALITIES for split in needed):
        use = "train" if for_training else "evaluate"
        raise UserError(f"no row is left to {use} on, so no set was made. {_why_not(statistics)}")
    if reason := over_budget(rejected, statistics.total() + rejected, max_rejected):
        _write_ledger(ledger, statistics.rejected_in_order())
        raise OverBudgetError(f"{reason}: no set was made; see {ledger}")


def _prepare(staging: Path, source: Source) -> None:
    """Removes what an interrupted build left, unless source and libraries are the same; then its shards stay."""
    mark, facts = staging / "source", f"{contracts.fingerprint(source)} {sorted(contracts.libraries().items())}"
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


def _built_before(folder: Path, fingerprint: str) -> Built | None:
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
    if facts.get("source_fingerprint") != fingerprint:
        raise UserError(f"{folder} was built from another source, or from files that have changed since: {remedy}")
    return Built(folder, False, facts["splits"], rejected, facts["pictures_in_two_splits"], facts.get("notes", {}))


def _write(source: Source, staging: Path, *, name: str, workers: int, beam: str | None) -> BuildStatistics:
    """Writes the set into `<staging>/FINISHED`, starting after the finished shards."""
    statistics = BuildStatistics(list(source.rejected))
    folder = staging / FINISHED
    folder.mkdir()
    schemas = {modality: writer.features(source, modality) for modality in MODALITIES}
    shards = {
        place: writer.Shards(staging / "parts" / place[0], place[1], schemas[place[0]])
        for place in itertools.product(MODALITIES, SPLITS)
    }
    rows = {place: [row for row in source.rows if (row.modality, row.split) == place] for place in shards}
    left = {place: rows[place][shards[place].rows :] for place in shards}
    unfinished = dataclasses.replace(source, rows=list(itertools.chain(*left.values())))
    converting = executors.converter(unfinished, workers, beam, staging / "beam")
    done = len(source.rows) - len(unfinished.rows)
    with converting as convert, progress.shown(len(source.rows), "rows", done=done) as tick:
        for place in shards:
            _fill(shards[place], place, convert(left[place]), statistics, tick)
    for modality in MODALITIES:
        splits = {split: shards[modality, split] for split in SPLITS if shards[modality, split].done}
        if splits:
            writer.assemble(folder, modality, schemas[modality], splits)
    if statistics.total():
        if words := _vocabulary(source, statistics):
            tokenizer.save(tokenizer.train(words), folder / "tokenizer")
        rejected = statistics.rejected_in_order()
        hidden = (dataclasses.replace(one, path=privacy.pseudonym(one.path, source.salt)) for one in rejected)
        _write_ledger(folder / LEDGER, hidden)
        members.write(folder, members.describe(statistics.patients, statistics.pictures, source.salt))
        facts = contracts.make(source, statistics, name=name, folder=folder)
        (folder / contracts.FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return statistics


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


def _why_not(statistics: BuildStatistics) -> str:
    """The commonest reasons, in one line."""
    codes = collections.Counter(one.code for one in statistics.rejected)
    reasons = ", ".join(f"{count} {code}" for code, count in codes.most_common(5)) or "none"
    return f"Accepted for other splits: {statistics.total()}; rejected: {reasons}. config.dry_run=True lists the rows"
