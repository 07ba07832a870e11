"""Checks that many settings share: ValueErrors of one line with the setting, what is allowed, and its value."""

import re
from typing import Any

AXES = {2: "two numbers (y, x)", 3: "three numbers (z, y, x)"}


def one_of(settings: Any, **allowed: tuple[str, ...]) -> None:
    """A name has to be one of a list."""
    for name, known in allowed.items():
        if getattr(settings, name) not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(settings, name)!r}")


def above_zero(settings: Any, *names: str) -> None:
    """A number, or all of several, above 0."""
    for name in names:
        if min(_numbers(getattr(settings, name))) <= 0:
            raise ValueError(f"{name} must be above 0, not {getattr(settings, name)}")


def at_least(settings: Any, least: int, *names: str) -> None:
    """A number, or all of several, of `least` or more."""
    for name in names:
        if min(_numbers(getattr(settings, name))) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(settings, name)}")


def below_one(settings: Any, *names: str) -> None:
    """A number from 0 to below 1."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(settings, name)}")


def between_zero_and_one(settings: Any, name: str) -> None:
    """A number above 0 and below 1."""
    if not 0 < getattr(settings, name) < 1:
        raise ValueError(f"{name} must be above 0 and below 1, not {getattr(settings, name)}")


def up_to_one(settings: Any, *names: str) -> None:
    """A number above 0 and at most 1."""
    for name in names:
        if not 0 < getattr(settings, name) <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(settings, name)}")


def shares(settings: Any, name: str) -> None:
    """The least and the most of a share."""
    scale = getattr(settings, name)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"{name} is two shares, least and most, above 0 and at most 1, not {scale}")


def ends(settings: Any, *names: str) -> None:
    """Two numbers above 0, at the start and at the end of a warm-up."""
    for name in names:
        if len(getattr(settings, name)) != 2:
            raise ValueError(f"{name} is two numbers, at the start and at the end, not {getattr(settings, name)}")
    above_zero(settings, *names)


def axes(settings: Any, count: int, *names: str) -> None:
    """A number for each of `count` axes."""
    for name in names:
        if len(getattr(settings, name)) != count:
            raise ValueError(f"{name} is {AXES[count]}, not {getattr(settings, name)}")


def window(settings: Any, name: str = "window_hu") -> None:
    """A range of Hounsfield units."""
    hu = getattr(settings, name)
    if len(hu) != 2 or hu[0] >= hu[1]:
        raise ValueError(f"{name}={hu} is no range: give two numbers of HU, the lower one first")


def pattern(text: str, name: str) -> None:
    """A regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{name}: {text!r} is no regular expression ({error})") from error


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
