"""Leaks: a patient or a pixel-equal picture that a network learns from and is tested on."""

import logging
from collections.abc import Iterable, Mapping

from data import members
from data.errors import UserError
from data.members import Members
from unimedi_jax.input import records

LOG = logging.getLogger(__name__)
NAMES = {"patients": "patients", "pictures": "pixel-equal pictures"}


def of_sets(sets: Iterable[records.RecordSet]) -> dict[str, Members]:
    """The training members of sets by name; sets of older versions, which have no list, are left out."""
    known = {one.name: members.read(one.folder) for one in sets}
    return {name: members.training(content) for name, content in known.items() if content is not None}


def check(
    trained: Mapping[str, Members] | None,
    tested: Iterable[records.RecordSet],
    *,
    allowed: bool,
    where: str = "training",
) -> None:
    """Holds what a network was trained on against the test records of sets.

    Args:
        trained: training members by name of the set (`of_sets`, or `members.read` of a run's folder); None: not known.
        tested: the sets whose test records the network is measured on.
        allowed: log what is shared instead of raising.
        where: what was trained, for the message.

    Raises:
        UserError: they share patients or pictures.
    """
    problems = []
    for one in tested:
        content = members.read(one.folder)
        if content is None or trained is None:
            LOG.info("whether test records of %s were in %s cannot be checked: no %s", one.name, where, members.FILE)
            continue
        for name, theirs in trained.items():
            counts = members.shared(theirs, content)
            if counts is None:
                if "generator" not in one.contract["source"]:
                    LOG.info("whether %s and %s share patients cannot be checked: their salts differ", name, one.name)
            elif any(counts.values()) and not (name == one.name and _asked_for(one, counts)):
                what = " and ".join(f"{count} {NAMES[kind]}" for kind, count in counts.items() if count)
                problems.append(f"{what} of the training records of {name} are in the test records of {one.name}")
    if problems and not allowed:
        raise UserError(
            f"{where}: {'; '.join(problems)}, so the test results would be too good: build one of the sets "
            "without them, or measure anyway with --config.allow_leaks=True"
        )
    for problem in problems:
        LOG.warning("%s: %s (config.allow_leaks)", where, problem)


def _asked_for(one: records.RecordSet, counts: Mapping[str, int]) -> bool:
    """Whether a set has patients in two of its own splits by the published split that its builder chose."""
    return bool(one.contract["source"].get("patients_in_two_splits")) and not counts["pictures"]
