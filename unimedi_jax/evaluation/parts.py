"""Parts of a job's results, each on the disk as soon as it is finished: a job that was killed goes on with the rest.

A part is a JSON file, written whole or not at all, that holds its result and all that the result depends on: the
checkpoint, the set, the settings. Only a part of exactly these facts is taken over.
"""

import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from data import pages
from unimedi_jax import fingerprint

LOG = logging.getLogger(__name__)
FOLDER = "parts"  # of a job's workdir, until the job has ended
LIBRARIES = ("jax", "jaxlib", "numpy", "scipy", "scikit-learn")  # others would mix numbers that round differently


def once(
    workdir: pathlib.Path | None,
    facts: Mapping[str, Any],
    make: Callable[[], Any],
    *,
    whole: Callable[[Any], bool] = lambda _: True,
) -> Any:
    """The result of `make` as JSON gives it back, from an earlier start of the job where that has finished this part.

    Args:
        workdir: of the job; None: nothing is read or written.
        facts: all that the result depends on, as JSON.
        make: computes the result, which JSON can hold; numbers of numpy become Python's.
        whole: whether all that an earlier result names is still there.
    """
    facts = json.loads(json.dumps({**facts, "libraries": {name: metadata.version(name) for name in LIBRARIES}}))
    path = workdir / FOLDER / f"{fingerprint.facts(facts)[:32]}.json" if workdir else None
    if path and path.exists():
        content = _read(path)
        if content.get("facts") == facts and whole(content["result"]):
            LOG.info("reused from an interrupted run: %s", path.name)
            return content["result"]
    text = json.dumps({"facts": facts, "result": make()}, default=lambda number: number.item())
    if path:
        pages.write(path, text)
    return json.loads(text)["result"]


def forget(workdir: pathlib.Path) -> None:
    """Removes the parts of a job that has ended: the next one measures anew."""
    shutil.rmtree(workdir / FOLDER, ignore_errors=True)


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}  # damaged: it is made again
    return content if isinstance(content, dict) and "result" in content else {}
