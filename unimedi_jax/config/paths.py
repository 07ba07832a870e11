"""Paths among the settings: what is no place on this machine's disks is refused before a folder is made of it."""

import re
from collections.abc import Mapping
from typing import Any

from data.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_all(values: Mapping[str, Any], where: str = "config") -> None:
    """Refuses `scheme://` at the start of any setting, or of any entry of one.

    Raises:
        UserError: there is one, such as gs://bucket/run, which would be made a folder named "gs:".
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            check_all(value, f"{where}.{name}")
            continue
        for text in value if isinstance(value, tuple | list) else (value,):
            if isinstance(text, str):
                check(text, f"{where}.{name}")


def check(text: str, where: str) -> None:
    """The same for one text, a setting called `where`."""
    if match := next(filter(None, map(_SCHEME.match, text.split(","))), None):
        raise UserError(f"{where}={text}: {match[0]} is not read or written: mount it and give the folder's path")
