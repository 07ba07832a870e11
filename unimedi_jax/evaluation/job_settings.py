"""Whose settings the numbers in a job's workdir are: a job with other ones must not write over them."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data import contract, pages
from data.errors import UserError
from unimedi_jax.config.jobs import DownstreamConfig
from unimedi_jax.evaluation import results
from unimedi_jax.inference import prompts
from unimedi_jax.input.records import RecordSet

FILE = "settings.json"
FREE = ("checkpoint", "data_dir", "allow_leaks", "rows", "masks")  # change no number, or are compared apart
SHOWN = 4  # differences in a message


def of(config: DownstreamConfig, sets: Sequence[RecordSet]) -> dict[str, Any]:
    """All that a job's numbers depend on but the checkpoint, as JSON: its settings, prompts as read, content of sets.

    Raises:
        UserError: prompts that cannot be read.
    """
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE}
    if settings.get("prompts"):
        settings["prompts"] = prompts.read(settings["prompts"])
    contents = {one.name: one.contract.get("content_sha256") for one in sets}
    return json.loads(json.dumps({"settings": settings, "sets": contents}))


def check(workdir: pathlib.Path, own: Mapping[str, Any], config: DownstreamConfig) -> None:
    """Whether a job of `config` may write its results into `workdir`; `own` is what `of` says of it.

    A set counts where both have it: one that could not be opened before, or now, is no other question.

    Raises:
        UserError: there are numbers of other settings or of other content of a set, or of nobody knows which.
    """
    path = workdir / FILE
    if not (workdir / results.FILE).exists():
        return
    way_out = "name another --workdir, or remove it"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        old, sets = contract.flat(before["settings"]), before["sets"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir} holds numbers, but no {FILE} that says of which settings: {way_out}") from error
    new, defaults = contract.flat(own["settings"]), contract.flat(of(type(config)(), ())["settings"])
    old = {name: defaults[name] for name in new.keys() & defaults.keys()} | old  # what was no setting yet did as these
    changed = [
        f"config.{name}: {old.get(name)!r} then, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys(), key=lambda name: (name != "job", name))
        if old.get(name) != new.get(name)
    ]
    changed += [f"records of {name}" for name, content in own["sets"].items() if sets.get(name, content) != content]
    if changed:
        raise UserError(f"{workdir} holds numbers of other settings ({'; '.join(changed[:SHOWN])}): {way_out}")


def keep(workdir: pathlib.Path, own: Mapping[str, Any]) -> None:
    """Writes what `of` says beside the results."""
    pages.write(workdir / FILE, json.dumps(own, indent=2) + "\n")
