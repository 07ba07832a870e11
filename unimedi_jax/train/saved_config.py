"""config.json of a run: a workdir goes on with the settings that it was started with."""

import dataclasses
import json
import logging
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from data import contract, members, pages
from data.errors import UserError
from unimedi_jax.config.pretraining import PretrainConfig

LOG = logging.getLogger(__name__)
# What may differ when a run goes on: how often it logs and saves, never what it computes.
_RUN = (
    "allow_leaks",
    "log_every",
    "data_dir",
    "checkpoint",
    "evals",
    "show_reports",
    "guard",
    "resume",
    "compilations",
    "track",
    "profile",
)
_DEVICES = (
    "optim.chosen_for",
    "mesh",
    "sharding",
    "distributed",
    "accumulate",
    "model.attention",
    "model.remat",
    "model.layers",
)
_CHUNKS = ("objective.contrastive_chunk", "objective.local_chunk")
_READING = ("input.report_buckets", "input.threads", "input.processes")
# The run keeps the global batch that it began with on any number of devices.
FREE = {*_RUN, *_DEVICES, *_CHUNKS, *_READING, "global_batch", "machine"}


def shareable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without paths and addresses of the machines it ran on."""
    return {key: value for key, value in config.items() if key not in ("data_dir", "tokenizer", "init", "distributed")}


def forget_start(workdir: pathlib.Path) -> None:
    """Removes what a start leaves that failed before it saved anything: it must not bind the corrected command."""
    for name in ("config.json", "init.json", members.FILE):
        (workdir / name).unlink(missing_ok=True)
    shutil.rmtree(workdir / "tokenizer", ignore_errors=True)


def keep(config: dict[str, Any], workdir: pathlib.Path, *, force: bool) -> dict[str, Any]:
    """The config a workdir was started with, where it computes the same as `config`; that of a new one is written.

    Raises:
        UserError: another computation, which `force` allows, or the file is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        pages.write(path, json.dumps(config, indent=2) + "\n")
        return config
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: bring back a copy of it, or name another --workdir") from error
    # What was no setting yet when the run began has done as its default does.
    defaults = contract.flat(json.loads(json.dumps(dataclasses.asdict(PretrainConfig()))))
    new = contract.flat(config)
    old = {key: defaults[key] for key in new.keys() & defaults.keys()} | contract.flat(before)
    changed = [
        f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if not {key, key.split(".")[0]} & FREE and old.get(key) != new.get(key)
    ]
    if changed and not force:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(changed[:6])}): give the same ones to resume, "
            "another --workdir to start anew, or --config.resume.force=True to resume with these"
        )
    if not changed:
        return before
    LOG.warning("resuming with changed settings: %s", "; ".join(changed))
    pages.write(path, json.dumps(config, indent=2) + "\n")
    return config
