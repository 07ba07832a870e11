"""A public set -> Source: its builder lists films and CTs, what all sets share is done here."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import errors, sets
from data.manifest import privacy, samples
from data.readers.files import BadInput
from data.reports import sections, text
from data.sets import dataset_index
from data.source import ORGANS, SPLITS, Rejected, Row, Source

FOREIGN = ("error", "keep", "translate")
PLACES = ("reports", "lists")  # options that name a place on this machine, which travels nowhere
Translate = Callable[[Sequence[tuple[str, str]]], Sequence[str]]  # (id, text) of reports to English


@dataclasses.dataclass(frozen=True)
class Reports:
    """How a set's reports become captions."""

    policy: sections.Policy
    language: str = ""  # the wanted one, of text.WORDS; nothing: any
    foreign: str = "error"  # what is done with reports in another one: rejected, kept, translated
    translate: Translate | None = None

    def __post_init__(self) -> None:
        """Raises UserError for what is none of the choices."""
        if self.language not in ("", *text.WORDS):
            raise errors.UserError(
                f"config.report.language is {self.language!r}: {' or '.join(text.WORDS)}, or empty for all"
            )
        if self.foreign not in FOREIGN:
            raise errors.UserError(f"config.report.foreign is {self.foreign!r}: one of {', '.join(FOREIGN)}")
        if (self.foreign == "translate") != (self.translate is not None):
            raise errors.UserError(
                "config.report.foreign=translate needs config.report.translations (a CSV) or config.report.translator "
                "(a Marian model), and these need it"
            )
        if self.foreign == "translate" and self.language != "en":
            raise errors.UserError(
                "config.report.foreign=translate translates to English: set config.report.language=en"
            )


def source(
    name: str,
    root: Path,
    *,
    options: Mapping[str, Any],
    reports: Reports | None,
    keep_ids: bool = False,
    salt: str = "",
) -> Source:
    """The source of a set of data/sets; `reports` None for one that has none.

    Raises UserError for a tree that lacks what the set must have, or for unknown options.
    """
    try:
        found = sets.SETS[name].read(root, **options)
    except (ValueError, KeyError, AttributeError) as error:  # a word for a number, a list for a table
        raise errors.UserError(
            f"a table or list of {name} in {root} is not of its published form ({type(error).__name__}): "
            "data/README.md shows the tree that this set must have"
        ) from error
    rejected = list(found.rejected)
    counts: collections.Counter = collections.Counter()
    silent = dict.fromkeys(range(len(found.items)), "")
    captions = _captions(found.items, reports, counts, rejected) if reports else silent
    rows, seen = [], collections.Counter()
    for at, caption in captions.items():
        item = found.items[at]
        seen[item.path, item.split] += 1
        try:
            if seen[item.path, item.split] > 1:
                raise BadInput("duplicate_row", "the set's tables name the film or CT twice")
            case = _case(item, root, caption)
        except BadInput as error:
            rejected.append(Rejected(at + 1, item.path, str(error)))
            continue
        key = privacy.pseudonym(item.path + (f" {item.split}" if found.leaks else ""), salt)
        rows.append(Row(key, item.modality, item.split, at + 1, info=case, path=item.path))
    both = _patients_in_two_splits(rows) if found.leaks else 0
    if not found.leaks:
        rows, leaked = samples.split_by_patient(rows)
        rejected += leaked
    if not keep_ids:
        rows = samples.hidden(rows, salt)
    return Source(
        labels=found.labels,
        prompts={label: samples.prompts(label) for label in found.labels},
        rows=rows,
        convert=functools.partial(samples.convert, read=found.read),
        truth=found.truth,
        contract={
            "kind": name,
            "options": {key: Path(one).name if key in PLACES else one for key, one in options.items()},
            **found.facts,
            "reports": _rules(reports, counts),
            "patient": "as the set gives it" if keep_ids else "hashed",
            "counts": dict(found.counts),
            "published_splits": dict(found.published),
            "left_out": dict(found.left_out),
            "patients_in_two_splits": both,
            "organs": list(found.organs),
        },
        rejected=tuple(sorted(rejected, key=lambda one: one.row)),
        for_training=found.for_training,
        organs=found.organs or ORGANS,
    )


def summary(made: Source) -> str:
    """What the set's tables gave beside what was published of them, what was left out, and how its reports look."""
    facts = made.contract
    expected = sets.SETS[facts["kind"]].EXPECTED
    lines = ["", f"{facts['kind'] + ', by its tables':<44}{'got':>10}  published"]
    lines += [_beside(what, got, expected.get(what)) for what, got in facts["counts"].items()]
    splits = collections.Counter(row.split for row in made.rows)
    lines += [_beside(split, splits[split], facts["published_splits"].get(split)) for split in SPLITS]
    if facts["patients_in_two_splits"]:
        lines.append(
            f"  warning: {facts['patients_in_two_splits']} patients are in more than one split, as was asked for"
        )
    for title, counts in (("left out", facts["left_out"]), ("reports", (facts["reports"] or {}).get("counts", {}))):
        lines += [title] if any(counts.values()) else []
        lines += [f"  {what:<42}{count:>10,}" for what, count in counts.items() if count]
    return "\n".join(lines)


def _beside(what: str, got: int, published: int | str | None) -> str:
    """One line: a count of ours, and the published one if there is any."""
    if not isinstance(published, int):
        return f"  {what:<42}{got:>10,}  {published or '-'}"
    return f"  {what:<42}{got:>10,}  {published:,}  {'same' if published == got else 'DIFFERS'}"


def _patients_in_two_splits(rows: Sequence[Row]) -> int:
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        splits[row.info.patient].add(row.split)
    return sum(len(sides) > 1 for sides in splits.values())


def _case(item: dataset_index.Item, root: Path, caption: str) -> samples.Case:
    if not text.clean(item.patient):
        raise BadInput("no_patient", "splits go by patient: the set's table gives none")
    file = samples.locate(item.path, root, "missing_image", folder_allowed=item.modality == "ct", links=True)
    mask = samples.locate(item.mask, root, "missing_mask", folder_allowed=False, links=True) if item.mask else None
    state = " ".join(samples.state(path) for path in (file, mask) if path)
    return samples.Case(file, mask, item.patient, caption, item.labels, state, truth=item.truth)


def _captions(
    items: Sequence[dataset_index.Item], reports: Reports, counts: collections.Counter, rejected: list[Rejected]
) -> dict[int, str]:
    """The captions of the items that have one, by their place; `counts` and `rejected` hear of the others."""
    policy = reports.policy
    if reports.foreign == "translate":  # accents and dots are needed until then
        policy = dataclasses.replace(policy, style="plain")
    found: dict[int, str] = {}
    foreign: list[int] = []
    for at, item in enumerate(items):
        try:
            caption = sections.caption(item.report, policy, counts)
        except BadInput:
            counts["without a caption, left out"] += 1
            continue
        spoken = text.language(caption)
        counts[f"language {spoken}"] += 1
        if reports.language and spoken in (*text.WORDS, "mixed") and spoken != reports.language:
            if reports.foreign == "translate":
                foreign.append(at)
            elif reports.foreign == "error" and spoken != "mixed":
                error = BadInput("wrong_language", f"the report reads as '{spoken}', not '{reports.language}'")
                rejected.append(Rejected(at + 1, item.path, str(error)))
                continue
        found[at] = caption
    if reports.translate and foreign:
        english = reports.translate([(items[at].report_id, found[at]) for at in foreign])
        for at, translated in zip(foreign, english, strict=True):
            found[at] = translated
            if not translated:
                del found[at]
                error = BadInput("no_translation", "the report has no English, or one that failed its checks")
                rejected.append(Rejected(at + 1, items[at].path, str(error)))
        counts["translated"] += sum(at in found for at in foreign)
    if policy != reports.policy:
        found = {at: sections.mgca(caption) for at, caption in found.items()}
        counts["without a caption, left out"] += sum(not caption for caption in found.values())
    return {at: caption for at, caption in found.items() if caption}


def _rules(reports: Reports | None, counts: collections.Counter) -> dict[str, Any] | None:
    if reports is None:
        return None
    return {
        **{field: list(v) if isinstance(v, tuple) else v for field, v in vars(reports.policy).items()},
        "language": reports.language,
        "foreign": reports.foreign,
        "counts": dict(sorted(counts.items())),
        "translation": getattr(reports.translate, "facts", None),
    }
