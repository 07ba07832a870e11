"""Text of files, made harmless for a terminal, a log or a spreadsheet, which take some of it for commands."""

import re
from collections.abc import Callable
from typing import Any, TextIO

# Control characters but line feed and tab, line separators, and marks that turn the direction of writing.
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def text(value: str) -> str:
    """The text with every character that a terminal obeys written out, as in `\\x1b`."""
    return COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), value)


def escaped(value: str) -> str:
    """A text of JSON with the same characters written as JSON writes them, as in `\\u009b`."""
    return COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", value)


def cell(value: Any) -> Any:
    """A cell of a CSV; text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.startswith(FORMULA) and not _is_number(value) else value


class Stream:
    """A text stream to a terminal or a log whose lines come through `words`; all else is the stream's own."""

    def __init__(self, stream: TextIO, words: Callable[[str], str] = text) -> None:
        self._stream, self._words = stream, words

    def write(self, value: str) -> int:
        """Writes what `words` makes of the text."""
        return self._stream.write(self._words(value))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
