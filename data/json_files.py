"""JSON files that may be a stranger's: size and depth are bounded, and what is wrong with one is said in one line."""

import json
from pathlib import Path
from typing import Any

from data import plain
from data.errors import UserError

MOST_BYTES = 1 << 28  # the members of a million pictures
DEEPEST = 40  # a config has 4 levels, the manifest of a checkpoint 3


def read(path: Path, advice: str, most: int = MOST_BYTES) -> Any:
    """The content of a file. `advice` says what to do where it cannot be read.

    Raises:
        UserError: it cannot be read, has more than `most` bytes, is no JSON, or is nested deeper than DEEPEST.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise UserError(f"{path} has {size} bytes, at most {most} are read: {advice}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {advice}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, it is not JSON: {advice}") from error
    if depth(content) > DEEPEST:
        raise UserError(f"{path} is nested deeper than {DEEPEST} levels: {advice}")
    return content


def read_object(path: Path, advice: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """The same of a file that holds an object, as JSON calls a dict."""
    content = read(path, advice, most)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, it holds no JSON object: {advice}")
    return content


def line(content: Any) -> str:
    """Content as one line of a file of lines: any script as it is, and nothing in it commands a terminal."""
    return plain.escaped(json.dumps(content, ensure_ascii=False)) + "\n"


def depth(content: Any) -> int:
    """How many dicts and lists enclose the innermost value."""
    levels, level = 0, [content]
    while level := [child for one in level if isinstance(one, dict | list) for child in _children(one)]:
        levels += 1
    return levels


def _children(one: dict[str, Any] | list[Any]) -> Any:
    return one.values() if isinstance(one, dict) else one
