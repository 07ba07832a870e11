"""What a table of results compares: encoders, ways of tuning them, shares of the labels, seeds, modalities."""

import itertools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from data.errors import UserError
from unimedi_jax.input import pipeline, records

ENCODERS = ("trained", "untrained")


class Trial(NamedTuple):
    """One training of a downstream network, as fields of its results."""

    encoder: str  # "trained" or "untrained"
    share: float = 1.0  # of the training patients
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.encoder} encoder, {self.share:.0%} of labels, seed {self.seed}"


def trials(config: Any) -> list[Trial]:
    """Every encoder with every share and seed of a job's config."""
    return list(itertools.starmap(Trial, itertools.product(encoders(config), config.shares, config.seeds)))


def main(config: Any) -> Trial:
    """The one whose head is saved: the trained encoder, the largest share, the first seed."""
    return Trial(ENCODERS[0], max(config.shares), config.seeds[0])


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
    dataset: records.RecordSet, asked: str = "", *, splits: Sequence[str] = ("train", "test")
) -> tuple[str, ...]:
    """Modalities of a set that have records in all `splits`; `asked` narrows them to one.

    Raises:
        UserError: none is left.
    """
    if asked and asked not in pipeline.MODALITIES:
        raise UserError(f"config.modality is xray, ct or empty for both, not {asked!r}")
    names = (asked,) if asked else pipeline.MODALITIES
    left = tuple(name for name in names if all(dataset.size(name, split) for split in splits))
    if not left:
        kind, where = asked or "X-ray or CT", f"{dataset.name} in {dataset.folder}"
        raise UserError(f"the set {where} has no {kind} records in {tuple(splits)}")
    return left
