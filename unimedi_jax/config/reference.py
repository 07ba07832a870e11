"""The settings as a person reads them: every key with its value and the comment that stands beside its field."""

import ast
import dataclasses
import difflib
import functools
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from unimedi_jax.config import building, jobs, objectives, pretraining

_USE = (
    jobs.ExportConfig,
    jobs.EmbedConfig,
    jobs.PredictConfig,
    jobs.SearchConfig,
    jobs.InspectConfig,
    jobs.AuditConfig,
)
_EVALUATE = (jobs.ProbeConfig, jobs.SegmentConfig, jobs.DetectConfig, jobs.RetrieveConfig, jobs.EvaluateConfig)
_STUDY = (jobs.AblateConfig, jobs.CompareConfig, jobs.ClaimsConfig, jobs.CompileConfig, jobs.BenchConfig)
JOBS: dict[str, type] = {
    cls.job: cls for cls in (building.BuildConfig, pretraining.PretrainConfig, *_USE, *_EVALUATE, *_STUDY)
}
# Keys of older versions and their names now, both in full: "optim.lr": "optim.peak_lr".
RENAMED: dict[str, str] = {"encoder_size": "encoders=timm:FILE:size=224"}
SUGGESTED, CLOSE = 0.7, 0.25  # the least score of a suggestion, and how far it may be below the best one


class Setting(NamedTuple):
    """One key, or with `section` the heading of the keys below it."""

    key: str
    value: Any
    comment: str
    section: bool = False


def settings(config: Mapping[str, Any]) -> list[Setting]:
    """Every setting of a job's config, a mapping with `job`: plain values before the sections below them."""
    return list(_settings(config, defaults(config), ""))


def defaults(config: Mapping[str, Any]) -> Any:
    """The settings that a job's config starts from, as a dataclass."""
    job = config["job"]
    return building.build_config(config["kind"]) if job == "build" else JOBS[job]()


def _settings(values: Mapping[str, Any], like: Any, prefix: str) -> Iterator[Setting]:
    """The settings of `values`, whose comments are those of the dataclass `like`."""
    notes = comments(type(like)) if dataclasses.is_dataclass(like) else {}
    names = [*(name for name in notes if name in values), *(name for name in values if name not in notes)]
    sections = [name for name in names if hasattr(values[name], "items")]
    for name in names:
        if name not in sections:
            yield Setting(prefix + name, values[name], notes.get(name, ""))
    for name in sections:
        part, inner = values[name], getattr(like, name, None)
        if name == "objective" and "name" in part:
            inner = objectives.OBJECTIVES[part["name"]]()
        title = inspect.getdoc(type(inner)) if dataclasses.is_dataclass(inner) else ""
        note = notes.get(name, "")
        comment = f"{note.rstrip('.')}. {title}" if note and title else note or title
        yield Setting(prefix + name, None, comment, section=True)
        yield from _settings(part, inner, f"{prefix}{name}.")


@functools.cache
def comments(cls: type) -> dict[str, str]:
    """Field -> the comment on its line, or else on the lines above it, of a dataclass and its bases."""
    texts = {}
    for base in reversed(cls.__mro__[:-1]):
        source = inspect.getsource(base)
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        notes = {one.start[0]: one for one in tokens if one.type == tokenize.COMMENT}
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                texts[node.target.id] = _comment(notes, node) or texts.get(node.target.id, "")
    return texts


def _comment(notes: Mapping[int, tokenize.TokenInfo], node: ast.AnnAssign) -> str:
    if node.end_lineno in notes:
        return notes[node.end_lineno].string.lstrip("# ")
    first = node.lineno
    while (one := notes.get(first - 1)) and not one.line[: one.start[1]].strip():
        first -= 1
    return " ".join(notes[line].string.lstrip("# ") for line in range(first, node.lineno))


def text(config: Mapping[str, Any], width: int = 100) -> str:
    """All settings of a job's config for the terminal, its current values among them."""
    lines = []
    for key, value, comment, section in settings(config):
        if section:
            lines += ["", *textwrap.wrap(f"{key}: {comment}" if comment else key, width)]
            continue
        head = f"  {key} = {value!r}"
        notes = textwrap.wrap(comment, width - 48)
        if len(head) > 46 and notes:
            lines.append(head)
            head = ""
        lines += [f"{head:46}  # {notes[0]}" if notes else head, *(f"{'':48}# {note}" for note in notes[1:])]
    return "\n".join(lines)


def markdown() -> str:
    """The reference page of all jobs, sources and objectives with their defaults: docs/configuration.md."""
    parts = [
        "# Settings",
        "Every key of every job with its default and what it means, generated from `unimedi_jax/config` by "
        "`python -m unimedi_jax.config > docs/configuration.md`. A setting is changed on the command line, as in "
        "`--config.optim.peak_lr=3e-4`; `python main.py --config=configs/<job>.py --help` prints the values of one job "
        "and preset. Presets change some of these defaults: they are in `configs/`.",
        "Jobs: " + ", ".join(f"[{job}](#{job})" for job in JOBS) + ".",
    ]
    for job, cls in JOBS.items():
        parts += [f"## {job}", _section("", cls(), 2)]
        if job == "build":
            parts += list(_sources())
        if job == "pretrain":
            others = (cls for name, cls in objectives.OBJECTIVES.items() if name != "unimedi")
            parts += [_section(f"objective.name={cls.name}", cls(), 3, "objective.") for cls in others]
    return "\n\n".join(parts) + "\n"


def _sources() -> Iterator[str]:
    """The settings of every source, beside those of all: what several share is printed for the first of them."""
    of_all, first = set(_all(building.BuildConfig())), {}
    for kind in building.SOURCES:
        source = building.build_config(kind)
        same = first.setdefault(type(source), kind)
        known, note = of_all, ""
        if same != kind:
            plain = (one for one in _all(building.build_config(same)) if not one.section)
            known = of_all.union(one for one in plain if not one.key.startswith("options."))  # each set has its own
            note = f" Settings that are not listed: as for build:{same}."
        yield _section(f"build:{kind}", source, 3, known=known, note=note)


def _all(instance: Any) -> Iterator[Setting]:
    return _settings(dataclasses.asdict(instance), instance, "")


def _section(
    title: str, instance: Any, level: int, prefix: str = "", known: Collection[Setting] = (), note: str = ""
) -> str:
    """The settings of `instance` without those `known` from another section."""
    heading = [f"{'#' * level} {title}"] if title else []
    lines = [*heading, inspect.getdoc(type(instance)).replace("\n", " ") + note, ""]
    values = dataclasses.asdict(instance)
    for name in [name for name in values if isinstance(getattr(instance, name), pretraining.PretrainConfig)]:
        values[name] = f"the settings of pretrain, as `{name}.steps`"
    rest = [one for one in _settings(values, instance, prefix) if one not in known]
    for (key, value, comment, section), after in zip(rest, [*rest[1:], None], strict=True):
        if not section:
            lines.append(f"- `{key}` = `{value!r}`" + (f": {comment}" if comment else ""))
        elif not known or (after and not after.section):  # of what is known no heading without a setting
            lines += ["", f"**{key}**: {comment}".replace("\n", " ").rstrip(), ""]
    return "\n".join(lines)


def explain(key: str, config: Mapping[str, Any]) -> str:
    """What is wrong with a key that a job's config does not have; "" where it has it."""
    known = {one.key: one for one in settings(config)}
    if key in known:
        return ""
    for old, new in RENAMED.items():
        if key == old or key.endswith(f".{old}"):
            return f"config.{key} has a new name: give --config.{key.removesuffix(old)}{new}"
    parents = [key[: match.start()] for match in re.finditer(r"\.", key)]
    for parent in parents:
        if parent in known and not known[parent].section:
            return f"config.{parent} is a value ({known[parent].value!r}), not a section: give --config.{parent}=..."
    near = nearest(key, [one.key for one in known.values() if not one.section])
    hint = f"did you mean {', '.join(near)}?" if near else "--help lists all settings"
    return f"the config has no setting {key!r}: {hint}"


def nearest(key: str, known: list[str]) -> list[str]:
    """The known keys that look most like `key`, in their own order; none where nothing does."""
    if typos := difflib.get_close_matches(key, known, cutoff=0.85):
        return [other for other in known if other in typos]
    scores = {other: _likeness(key, other) for other in known}
    least = max(SUGGESTED, max(scores.values()) - CLOSE)
    best = sorted((other for other in known if scores[other] >= least), key=lambda other: -scores[other])[:3]
    return [other for other in known if other in best]


def _likeness(key: str, other: str) -> float:
    """Of spelling, in full or of the last parts, and of words; the same section counts most."""
    words, others = (re.split(r"[._]", name) for name in (key, other))
    ratios = [
        difflib.SequenceMatcher(None, a, b).ratio()
        for a, b in ((key, other), (key.rpartition(".")[2], other.rpartition(".")[2]))
    ]
    shared = len(set(words) & set(others)) / min(len(set(words)), len(set(others)))
    return max(ratios) + 0.5 * shared + 0.5 * (words[0] == others[0])
