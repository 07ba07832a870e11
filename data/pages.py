"""Pages for a browser: one HTML file each that opens offline and runs no script, from jinja2 templates.

Every value that a template prints is escaped. `templates/base.html` forbids scripts and network access.
"""

import base64
from pathlib import Path
from typing import Any

import jinja2

SHARED = Path(__file__).with_name("templates")


def render(template: Path, **values: Any) -> str:
    """The HTML text of a template, which may use those beside it and the shared ones.

    Raises:
        jinja2.UndefinedError: the template prints a name that is not among `values`.
    """
    blocks = dict(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    loader = jinja2.FileSystemLoader([template.parent, SHARED])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, **blocks)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template(template.name).render(values)


def write(path: Path, text: str) -> Path:
    """Writes a text file, which appears whole or not at all, and the folders above it; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # A path that is not valid UTF-8 becomes readable rather than an error.
    partial.write_text(text, encoding="utf-8", errors="replace")
    return partial.replace(path)
