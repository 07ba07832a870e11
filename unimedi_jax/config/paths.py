"""Paths among the settings: what is no place that a job can read or write is refused before a folder is made of it."""

import re
from collections.abc import Mapping
from typing import Any

from data.buckets.store import is_url
from data.errors import UserError

# What may be a place in a bucket, of any job that has the setting.
READ = ("path", "source", "checkpoint", "head", "prompts", "tokenizer", "init.checkpoint", "init.vision", "init.report")
READ = (*READ, "evals.prompts")
WRITTEN = ("out", "maps")
DATA = "data_dir"  # read, but by jobs that build sets
_CHECKPOINT = re.compile(r"(.+?)(?::(best|\d+))?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def checkpoint(text: str) -> tuple[str, str]:
    """A run, and which of its checkpoints stands behind the colon: "best", a step or ""."""
    match = _CHECKPOINT.fullmatch(text)
    return (match[1], match[2] or "") if match else (text, "")


def check_all(values: Mapping[str, Any], section: str = "") -> None:
    """Refuses `scheme://` at the start of any setting, or of any entry of one, but for buckets where they are at home.

    Raises:
        UserError: there is one, such as ftp://host/run, which would be made a folder named "ftp:".
    """
    for name, value in values.items():
        key = f"{section}{name}"
        if isinstance(value, Mapping):
            check_all(value, f"{key}.")
            continue
        for text in value if isinstance(value, tuple | list) else (value,):
            if isinstance(text, str):
                check(text, f"config.{key}", bucket=key in (*READ, *WRITTEN, DATA))


def check(text: str, where: str, *, bucket: bool = False) -> None:
    """The same for one text, a setting called `where`, which may be a place in a bucket or not."""
    if bucket and is_url(text) and "," not in text:
        return
    if match := next(filter(None, map(_SCHEME.match, text.split(","))), None):
        raise UserError(f"{where}={text}: {match[0]} is not read or written here: mount it and give the folder's path")
