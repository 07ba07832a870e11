"""The settings of a run or an export, perhaps a stranger's or edited: kinds and sizes, before anything is built."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from data.errors import UserError
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed

READ = ("seed", "steps", "batch", "model", "input", "objective", "evals", "checkpoint")  # what is used of them
MOST = 1 << 20  # of any whole number of the network
MOST_TOKENS = 1 << 18  # of one X-ray or CT
SHOWN = 300  # letters of a message about them
MOST_VOXELS = 1 << 28  # of one X-ray or CT, at the network's input


def check(config: Any, where: str) -> None:
    """Refuses settings that no run of this program has.

    Args:
        config: what a file holds.
        where: which file, for the message.

    Raises:
        UserError: a section is missing, a setting is of another kind or out of bounds, or the network would be larger
            than any.
    """
    if not isinstance(config, dict) or not all(name in config for name in READ):
        raise UserError(f"{where} is damaged or was edited: a run has the settings {', '.join(READ)}")
    default = PretrainConfig()
    read = {name: config[name] for name in READ}
    for name, value in read.items():
        usual = getattr(default, name)
        if dataclasses.is_dataclass(usual) and not isinstance(value, dict):
            raise UserError(f"{where} is damaged or was edited: config.{name} is not a section of settings")
        if name != "objective":
            _check_kinds({name: value}, default, where, "config")
    try:
        for name in ("batch", "evals", "checkpoint"):  # other versions have other settings there
            known = {field.name for field in dataclasses.fields(getattr(default, name))}
            read[name] = {key: value for key, value in read[name].items() if key in known}
        typed(PretrainConfig, read)
    except (UserError, ValueError, TypeError, AttributeError) as error:
        why = str(error)[:SHOWN]
        raise UserError(f"{where} was made with settings that this version does not know: {why}") from error
    _check_sizes(read["model"], where)


def _check_kinds(values: Mapping[str, Any], default: Any, where: str, section: str) -> None:
    """Refuses values of other kinds than those of the dataclass instance `default`, and below."""
    for name, value in values.items():
        usual, setting = getattr(default, name, None), f"{section}.{name}"
        if dataclasses.is_dataclass(usual) and isinstance(value, dict):
            _check_kinds(value, usual, where, setting)
        elif hasattr(default, name) and not _is_like(value, usual):
            raise UserError(f"{where} was edited: {setting} is {str(value)[:40]!r}, where it is such as {usual!r}")


def _is_like(value: Any, usual: Any) -> bool:
    if usual is None:
        return value is None or isinstance(value, bool | int | float | str)
    if isinstance(usual, tuple):
        return isinstance(value, list | tuple) and all(isinstance(one, int | float | str) for one in value)
    if isinstance(usual, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(usual)


def _check_sizes(model: Mapping[str, Any], where: str) -> None:
    whole = {name: _whole(value) for name, value in model.items()}
    if too_large := [f"config.model.{name}={max(values)}" for name, values in whole.items() if max(values) > MOST]:
        raise UserError(f"{where} asks for {too_large[0]}, more than any network has ({MOST})")
    default = dataclasses.asdict(PretrainConfig().model)
    of = {name: whole.get(name) or _whole(default[name]) for name in default}
    spaces = (of["image_size"] * 2, of["image_patch"]), (of["volume_size"], of["volume_patch"])
    for space, patch in (*spaces, (of["slice_size"] * 2, of["image_patch"])):
        if len(space) != len(patch) or math.prod(space) > MOST_VOXELS:
            raise UserError(f"{where} asks for an input of {space} in patches of {patch}, which no network has")
        if not 1 <= math.prod(space) // math.prod(patch) <= MOST_TOKENS:
            raise UserError(
                f"{where} cuts an input of {space} into patches of {patch}: 1 to {MOST_TOKENS} are possible"
            )


def _whole(value: Any) -> list[int]:
    """The whole numbers of a setting, 0 for one that is none."""
    values = value if isinstance(value, list | tuple) else (value,)
    return [one for one in values if isinstance(one, int)] or [0]
