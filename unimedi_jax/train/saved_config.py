"""config.json of a run: a workdir goes on with the settings that it was started with, but for how it logs and saves."""

import dataclasses
import json
import logging
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax

from data import contract, members, pages
from data.errors import UserError
from data.reports.prompts import TEMPLATES
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.inference import address

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
# How the run began: it keeps its global batch on any number of devices.
_BEGAN = ("global_batch", "machine")
FREE = {*_RUN, *_DEVICES, *_CHUNKS, *_READING, *_BEGAN}
_PATHS = ("data_dir", "tokenizer", "init", "distributed", "compilations")  # and addresses, of one machine


def shareable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without paths and addresses of the machines it ran on."""
    shared = {key: value for key, value in config.items() if key not in _PATHS}
    if shared.get("evals", {}).get("prompts") not in (None, "", *TEMPLATES):  # a file of one's own
        shared["evals"] = shared["evals"] | {"prompts": ""}
    return shared


def forget_start(workdir: pathlib.Path) -> None:
    """Removes what a start leaves that failed before it saved anything: it must not bind the corrected command.

    Raises:
        UserError: these files are not of a run: the folder is an export, a built set or a model of somebody else.
    """
    config = workdir / "config.json"
    left = [workdir / name for name in ("init.json", members.FILE, "tokenizer")]
    exported = workdir / address.FACTS
    there = [path.name for path in (exported, config, *left) if path.exists()]
    if exported.exists() or (there and not _is_of_a_run(config)):
        raise UserError(f"{workdir} holds what is not of a run ({', '.join(there)}): name another --workdir")
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    config.unlink(missing_ok=True)  # last: it says that the others are of a run


def _is_of_a_run(config: pathlib.Path) -> bool:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("job") == PretrainConfig.job


def keep(config: dict[str, Any], workdir: pathlib.Path, *, force: bool) -> dict[str, Any]:
    """The config that a workdir's run goes on with from here, as config.json then has it; a new run's is `config`.

    It is the one that the run was started with, with the settings of `config` that may change. With `force` it is
    `config`, and the global batch is still the one of the start, unless the settings of the batch have changed.

    Raises:
        UserError: another computation, which `force` allows, or the file is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        return _write(path, config)
    before = _read(path)
    changed = _changed(config, before)
    if changed and not force:
        raise UserError(_refusal(changed, workdir))
    began = {name: before[name] for name in _BEGAN if name in before}
    if not changed:
        after = _updated(before, config) | began
    else:
        if any(key.startswith("batch.") or key == "input.modality_shares" for key in changed):
            rows = began.pop("global_batch", None), config.get("global_batch")
            changed["global_batch"] = f"the global batch: {rows[0]} then, {rows[1]} now"
        LOG.warning("resuming with changed settings: %s", "; ".join(changed.values()))
        after = config | began
    return after if after == before else _write(path, after)


def check(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Refuses a `config` that computes something else than the run of a workdir did; nothing is written.

    Raises:
        UserError: it does, or config.json is missing or damaged.
    """
    if changed := _changed(config, _read(workdir / "config.json")):
        raise UserError(_refusal(changed, workdir))


def _refusal(changed: Mapping[str, str], workdir: pathlib.Path) -> str:
    return (
        f"{workdir} holds a run with other settings ({'; '.join([*changed.values()][:6])}): give the same ones to "
        "resume, another --workdir to start anew, or --config.resume.force=True to resume with these"
    )


def _changed(config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """The settings that compute something else than those of `before` did, each with both values in words."""
    # What was no setting yet when the run began has done as its default does.
    defaults = contract.flat(json.loads(json.dumps(dataclasses.asdict(PretrainConfig()))))
    new = contract.flat(config)
    old = {key: defaults[key] for key in new.keys() & defaults.keys()} | contract.flat(before)
    return {
        key: f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if not {key, key.split(".")[0]} & FREE and old.get(key) != new.get(key)
    }


def _updated(before: Mapping[str, Any], config: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """`before` with the values that `config` has for the settings that may change."""
    after = dict(before)
    for name, value in config.items():
        if section + name in FREE:
            after[name] = value
        elif isinstance(value, Mapping) and isinstance(before.get(name), Mapping):
            after[name] = _updated(before[name], value, f"{section}{name}.")
    return after


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: bring back a copy of it, or name another --workdir") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: bring back a copy of it, or name another --workdir") from error


def _write(path: pathlib.Path, config: dict[str, Any]) -> dict[str, Any]:
    """Writes config.json, of several hosts the first one, whose paths it then has; returns `config`."""
    if not jax.process_index():
        pages.write(path, json.dumps(config, indent=2) + "\n")
    return config
