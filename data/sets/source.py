"""A public set -> Source: its module lists X-rays and CTs, and what all sets share is done here."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import record_grid, sets, views
from data.errors import UserError, check_choice
from data.manifest import privacy, samples
from data.readers.files import BadInput
from data.record_grid import RecordGrid
from data.reports import prompts, sections, text
from data.sets import dataset_index
from data.source import ORGANS, SPLITS, Rejected, Row, Source

FOREIGN = ("error", "keep", "translate")
# Options of later versions at their defaults: a set that was built before stays the same.
UNNAMED = {"blank": "unknown", "candidates": False, "greys": "window", "fold": 0, "split": "subsets"}
PLACES = ("reports", "lists")  # options that name a path on this machine: the contract holds only the name
Translate = Callable[[Sequence[tuple[str, str]]], Sequence[str]]  # (id, text) of reports to English


@dataclasses.dataclass(frozen=True)
class Reports:
    """How a set's reports become captions."""

    policy: sections.Policy
    language: str = ""  # one of text.WORDS; empty: any
    foreign: str = "error"  # what happens to reports in another language, one of FOREIGN
    translate: Translate | None = None

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        text.check_language("report.language", self.language)
        check_choice("report.foreign", self.foreign, FOREIGN)
        if (self.foreign == "translate") != (self.translate is not None):
            raise UserError(
                "config.report.foreign=translate needs config.report.translations (a CSV) or config.report.translator "
                "(a Marian model), and these need it"
            )
        if self.foreign == "translate" and self.language != "en":
            raise UserError("config.report.foreign=translate translates to English: set config.report.language=en")


def source(
    name: str,
    root: Path,
    options: Mapping[str, Any],
    reports: Reports | None,
    *,
    keep_ids: bool = False,
    salt: str = "",
    grid: RecordGrid = record_grid.DEFAULT,
) -> Source:
    """The source of a set of data/sets; `reports` None for one that has none.

    Raises UserError for a tree that lacks what the set must have, or for unknown options.
    """
    if not root.is_dir():
        raise UserError(f"config.source {root} is not a folder: name the root of the download")
    try:
        index = sets.SETS[name].read(root, **options)
    except (ValueError, KeyError, AttributeError) as error:  # a word for a number, a list for a table
        raise UserError(
            f"a table or list of {name} in {root} is not of its published form ({type(error).__name__}): "
            "data/README.md links to the tree that this set must have"
        ) from error
    if not index.items and not index.rejected:
        raise UserError(_nothing(name, root, index.left_out))
    rejected = list(index.rejected)
    counts: collections.Counter = collections.Counter()
    captions = dict.fromkeys(range(len(index.items)), "")
    if reports:
        reports = dataclasses.replace(reports, policy=dataclasses.replace(reports.policy, headings=index.headings))
        captions = _captions(index.items, reports, counts, rejected)
    rows, times, columns = [], collections.Counter(), _columns(index.items)
    for at, caption in captions.items():
        item = index.items[at]
        place = (item.path, item.member, item.split)
        times[place] += 1
        try:
            if times[place] > 1:
                raise BadInput("duplicate_row", "the set's tables name the X-ray or CT twice")
            sample = _sample(item, root, caption, columns)
        except BadInput as error:
            rejected.append(Rejected(at + 1, item.path, str(error)))
            continue
        identity = " ".join(filter(None, (item.path, item.member, item.split if index.leaks else "")))
        key = privacy.pseudonym(identity, salt)
        rows.append(Row(key, item.modality, item.split, at + 1, info=sample, path=item.path))
    both = 0
    if index.leaks:
        both = sum(len(splits) > 1 for splits in samples.splits_by_patient(rows).values())
    else:
        rows, leaked = samples.split_by_patient(rows)
        rejected += leaked
    if not keep_ids:
        rows = samples.hidden(rows, salt)
    annotations = frozenset(index.annotations)
    if any(item.mask for item in index.items):
        annotations = grid.with_originals(annotations)
    return Source(
        labels=index.labels,
        prompts={label: prompts.of_label(label) for label in index.labels},
        rows=rows,
        convert=functools.partial(samples.convert, read=index.read, grid=grid),
        annotations=annotations,
        contract={
            "kind": name,
            "options": {key: Path(one).name if key in PLACES else one for key, one in _named(options).items()},
            **index.facts,
            "reports": _rules(reports, counts),
            "patient": "as the set gives it" if keep_ids else "hashed",
            "counts": dict(index.counts),
            "published_splits": dict(index.published),
            "left_out": dict(index.left_out),
            "patients_in_two_splits": both,
            "organs": list(index.organs),
            **({"columns": list(columns)} if columns else {}),
        },
        columns=columns,
        rejected=tuple(sorted(rejected, key=lambda one: one.row)),
        salt=salt,
        organs=index.organs or ORGANS,
        grid=grid,
    )


def _nothing(name: str, root: Path, left_out: Mapping[str, int]) -> str:
    """Why a set has no film and no CT: what was looked for and where, and what was left out."""
    gone = "; ".join(f"{count} {what}" for what, count in left_out.items() if count)
    return (
        f"{root} has nothing to build of {name}: looked below it for {sets.SETS[name].LAYOUT}"
        f"{f' (left out: {gone})' if gone else ''}. data/README.md links to the trees that are read"
    )


def summary(source: Source) -> str:
    """The counts of the set's tables beside the published ones, what was left out, and counts over its reports."""
    facts = source.contract
    expected = sets.SETS[facts["kind"]].EXPECTED
    lines = ["", f"{facts['kind'] + ', by its tables':<44}{'got':>10}  published"]
    lines += [_beside(what, got, expected.get(what)) for what, got in facts["counts"].items()]
    splits = collections.Counter(row.split for row in source.rows)
    lines += [_beside(split, splits[split], facts["published_splits"].get(split)) for split in SPLITS]
    if facts["patients_in_two_splits"]:
        both = facts["patients_in_two_splits"]
        lines.append(f"  warning: {both} patients are in more than one split, as was asked for")
    for title, counts in (("left out", facts["left_out"]), ("reports", (facts["reports"] or {}).get("counts", {}))):
        lines += [title] if any(counts.values()) else []
        lines += [f"  {what:<42}{count:>10,}" for what, count in counts.items() if count]
    return "\n".join(lines)


def _beside(what: str, got: int, published: int | str | None) -> str:
    """One line: our count, and the published one if there is any."""
    if not isinstance(published, int):
        return f"  {what:<42}{got:>10,}  {published or '-'}"
    return f"  {what:<42}{got:>10,}  {published:,}  {'same' if published == got else 'DIFFERS'}"


def _columns(items: Sequence[dataset_index.Item]) -> tuple[str, ...]:
    """The fields of views.COLUMNS that a set's layout gives."""
    return tuple(name for name in views.COLUMNS if any(getattr(item, name) for item in items))


def _sample(item: dataset_index.Item, root: Path, caption: str, columns: Sequence[str]) -> samples.Sample:
    if text.is_nothing(text.clean(item.patient)):
        raise BadInput("no_patient", "splits go by patient: the set's table gives none")
    file = samples.locate(item.path, root, "missing_image", folder_allowed=item.modality == "ct", links=True)
    mask = samples.locate(item.mask, root, "missing_mask", folder_allowed=False, links=True) if item.mask else None
    state = samples.state(file, mask)
    named = tuple((name, getattr(item, name)) for name in columns)
    facts = {"annotation": item.annotation, "columns": named}
    return samples.Sample(file, mask, item.patient, caption, item.labels, state, **facts)


def _captions(
    items: Sequence[dataset_index.Item], reports: Reports, counts: collections.Counter, rejected: list[Rejected]
) -> dict[int, str]:
    """The captions of the items that have one, by position; the others are added to `counts` or `rejected`."""
    policy = reports.policy
    if reports.foreign == "translate":  # a translator needs accents and dots
        policy = dataclasses.replace(policy, style="plain")
    captions: dict[int, str] = {}
    foreign: list[int] = []
    for at, item in enumerate(items):
        try:
            caption = sections.caption(item.report, policy, counts)
        except BadInput:
            counts["without a caption, left out"] += 1
            continue
        language = text.language(caption)
        counts[f"language {language}"] += 1
        if reports.language and language in (*text.WORDS, "mixed") and language != reports.language:
            if reports.foreign == "translate":
                foreign.append(at)
            elif reports.foreign == "error" and language != "mixed":
                error = BadInput("wrong_language", f"the report reads as '{language}', not '{reports.language}'")
                rejected.append(Rejected(at + 1, item.path, str(error)))
                continue
        captions[at] = caption
    if reports.translate and foreign:
        english = reports.translate([(items[at].report_id, captions[at]) for at in foreign])
        captions |= dict(zip(foreign, english, strict=True))
        error = BadInput("no_translation", "the report has no English, or one that failed its checks")
        rejected += [Rejected(at + 1, items[at].path, str(error)) for at in foreign if not captions[at]]
        counts["translated"] += sum(map(bool, english))
        captions = {at: caption for at, caption in captions.items() if caption}
    if policy != reports.policy:
        captions = {at: sections.mgca(caption) for at, caption in captions.items()}
        counts["without a caption, left out"] += sum(not caption for caption in captions.values())
    return {at: caption for at, caption in captions.items() if caption}


def _rules(reports: Reports | None, counts: collections.Counter) -> dict[str, Any] | None:
    if reports is None:
        return None
    policy = {field: list(v) if isinstance(v, tuple) else v for field, v in vars(reports.policy).items()}
    if reports.policy.headings == sections.MIT_LCP:
        del policy["headings"]  # as in the sets that were built when there was no other rule
    return {
        **policy,
        "language": reports.language,
        "foreign": reports.foreign,
        "counts": dict(sorted(counts.items())),
        "translation": getattr(reports.translate, "facts", None),
    }


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a contract names."""
    unnamed = UNNAMED | ({"lists": ""} if "labeler" in options else {})  # of CheXpert Plus
    return {key: value for key, value in options.items() if not (key in unnamed and unnamed[key] == value)}
