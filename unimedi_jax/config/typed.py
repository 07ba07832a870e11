"""Between the frozen dataclass that code below the jobs takes and the mapping that a command line fills."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import ml_collections
from ml_collections.config_dict import placeholder

from data.errors import UserError
from unimedi_jax.config import numbers
from unimedi_jax.config.objectives import OBJECTIVES

T = TypeVar("T")


def typed(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Settings of a dataclass; those that `values` lacks keep their defaults, lists become tuples.

    Raises:
        UserError: there is no such setting, or its value fails a check.
    """
    defaults, changes = {field.name: getattr(cls(), field.name) for field in dataclasses.fields(cls)}, {}
    for name, value in values.items():
        if name not in defaults:
            raise UserError(f"{where} has no setting {name!r}: its settings are {', '.join(defaults)}")
        changes[name] = _value(name, defaults[name], value, f"{where}.{name}")
        numbers.check(cls, name, changes[name], f"{where}.{name}")
    try:
        return cls(**changes)
    except (ValueError, TypeError) as error:
        message = str(error)
        raise UserError(message if message.startswith("config.") else f"{where}: {message}") from error


def config_dict(settings: Any) -> ml_collections.ConfigDict:
    """The settings of a dataclass as a file of `configs/` hands them to the command line.

    A setting of `type | None` that is None is a placeholder, which takes a value of that type alone.
    """
    values = dataclasses.asdict(settings)
    types = {field.name: get_args(field.type) for field in dataclasses.fields(settings)}
    unset = {name: placeholder(types[name][0]) for name, value in values.items() if value is None}
    return ml_collections.ConfigDict(values | unset)


def _value(name: str, default: Any, value: Any, where: str) -> Any:
    if name == "objective":
        return typed(_objective(value, where), value, where)
    if dataclasses.is_dataclass(default):
        return typed(type(default), value, where)
    return plain(value)


def _objective(values: Mapping[str, Any], where: str) -> type:
    name = values.get("name", "unimedi")
    if name not in OBJECTIVES:
        raise UserError(f"{where}.name must be one of {', '.join(OBJECTIVES)}, not {name!r}")
    return OBJECTIVES[name]


def plain(value: Any) -> Any:
    """The value as dictionaries and tuples, which JSON turns into lists."""
    if hasattr(value, "items"):
        return {name: plain(part) for name, part in value.items()}
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value
