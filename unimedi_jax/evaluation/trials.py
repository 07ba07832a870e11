"""What a table of results compares: encoders, ways of tuning them, shares of the labels, seeds, modalities."""

import contextlib
import itertools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data.errors import UserError
from unimedi_jax.config import trainable as rules
from unimedi_jax.evaluation import draws
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import leaks, pipeline, records
from unimedi_jax.report import published

LOG = logging.getLogger(__name__)
ENCODERS = ("trained", "untrained")
FEWEST = 5  # training cases
# Ends of a task's name: rows of two protocols are never mixed.
PROTOCOLS = {"mgca": "MGCA", "unetr": "UNETR", "voco": "VoCo", "hkbu": "HKBU", "unimiss": "UniMiSS"}
PROTOCOLS["genesis"] = "Models Genesis"
PUBLISHED = {"ours": ""} | {name: f", {authors}'s protocol" for name, authors in PROTOCOLS.items()}
BY_STUDY = ", by study"  # ends the name of a task whose cases are studies, their pictures pooled
KINDS = {"xray": "X-ray", "ct": "CT"}


class Trial(NamedTuple):
    """One training of a downstream network, as fields of its results."""

    encoder: str  # "trained" or "untrained"
    share: float = 1.0  # of the training cases
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.encoder} encoder, {self.share:.0%} of labels, seed {self.seed}"


def in_part(tune: str, asked: rules.Rules) -> str:
    """End of a task's name where only a part of a fine-tuned network trains."""
    if tune != "full" or asked == rules.EVERYTHING:
        return ""
    return ", by LoRA" if any(rules.parse(text).kind == "lora" for _, text in asked) else ", in part"


def of_protocol(protocol: str, *, changed: bool) -> str:
    """End of a task's name: whose protocol it follows, and whether with other settings than that prescribes."""
    return PUBLISHED[protocol] + (published.CHANGED if changed and protocol != "ours" else "")


def changed(config: Any, *settings: str) -> bool:
    """Whether any of these settings of a job, or of a section of one, is not at its default."""
    return any(getattr(config, name) != getattr(type(config), name) for name in settings)


def trials(config: Any, cases: int) -> list[Trial]:
    """Every encoder with every share of `cases` training cases and every seed of a job's config.

    Shares of fewer than FEWEST cases are left out, and that is logged: nothing learnt from so few says anything.
    """
    shares = []
    for share in config.shares:
        count = draws.size(cases, share)
        if count < FEWEST:
            what = "a share of %.3g %% is skipped: of %d training cases it is %d, and at least %d are needed"
            LOG.warning(what, 100 * share, cases, count, FEWEST)
        else:
            shares.append(share)
    return list(itertools.starmap(Trial, itertools.product(encoders(config), shares, config.seeds)))


def too_few(place: str, cases: Mapping[str, tuple[int, int]], config: Any, kind: str = "") -> UserError:
    """What ends an evaluation in which nothing was trained: by modality the training and test cases of a set."""
    counts = " and ".join(
        f"{train} training and {test} test {pipeline.NAMES[name]}" for name, (train, test) in cases.items()
    )
    limited = f" within config.limit={config.limit}" if getattr(config, "limit", 0) else ""
    return UserError(
        f"{place} has {counts}{kind}{limited}: {FEWEST} to train, after config.shares, and 1 to test are needed"
    )


def check_leaks(trained: Pretrained, tested: Sequence[records.RecordSet], config: Any) -> None:
    """Raises UserError where test records were learnt from, by the checkpoint or in the set's own training records."""
    leaks.check(trained.members, tested, allowed=config.allow_leaks, where=str(trained.path))
    for one in tested:
        leaks.check(leaks.of_sets([one]), [one], allowed=config.allow_leaks, where=f"the set {one.name}")


def main(config: Any) -> Trial:
    """The one whose head is saved: the trained encoder, the largest share, the first seed."""
    return Trial(ENCODERS[0], max(config.shares), config.seeds[0])


@contextlib.contextmanager
def left_out(name: str, task: str) -> Iterator[None]:
    """What one set lacks or has lost costs its own numbers and a line of the log."""
    try:
        yield
    except UserError as error:
        LOG.warning("%s, %s: left out: %s", name, task, error)


def encoders(config: Any) -> tuple[str, ...]:
    """The trained encoder, and beside it the untrained one if `config.untrained`."""
    return ENCODERS if config.untrained else ENCODERS[:1]


def tunes(names: str, known: Collection[str]) -> tuple[str, ...]:
    """The comma-separated ways of tuning an encoder.

    Raises:
        UserError: none, or one that is not known.
    """
    chosen = tuple(filter(None, names.split(",")))
    if not chosen or set(chosen) - set(known):
        raise UserError(f"config.tune is one or more of {', '.join(known)}, not {names!r}")
    return chosen


def modalities(
    trained: Pretrained, dataset: records.RecordSet, asked: str = "", *, splits: Sequence[str] = ("train", "test")
) -> tuple[str, ...]:
    """Modalities that a network reads and of which a set has records in all `splits`; `asked` narrows them to one.

    Raises:
        UserError: none is left.
    """
    if asked and asked not in pipeline.MODALITIES:
        raise UserError(f"config.modality is xray, ct or empty for both, not {asked!r}")
    if asked and asked not in trained.reads:
        raise UserError(f"config.modality={asked}: {trained.path} reads {' and '.join(trained.reads)} alone")
    names = (asked,) if asked else trained.reads
    left = tuple(name for name in names if all(dataset.size(name, split) for split in splits))
    if not left:
        kind, where = asked or " or ".join(KINDS[name] for name in names), f"{dataset.name} in {dataset.folder}"
        missing = [split for split in splits if not any(dataset.size(name, split) for name in names)]
        need = " and ".join(missing or splits)
        raise UserError(
            f"the set {where} has no {kind} records for {need}, which this evaluation needs: name another set with "
            "config.data"
        )
    return left
