"""The manifest of a checkpoint: the hash of every array and fact in it, and the mark that it is complete."""

import json
import math
import os
import pathlib
import shutil
from typing import Any

import jax

from data import json_files
from data.errors import UserError
from unimedi_jax import fingerprint, trees
from unimedi_jax.typing import PyTree

NAME = "manifest.json"
SMALL_CLAIM = 2**30  # bytes that arrays may claim in any case
MOST_PACKED = 50  # times as many as their files have: weights pack to nine tenths, zeros to nothing


class DamagedError(Exception):
    """Why a checkpoint cannot be used."""


def describe(step: int, state: PyTree, **facts: Any) -> dict[str, Any]:
    """The manifest of `state` (arrays) and of JSON `facts` saved beside it."""
    shapes, hashes = _shapes(state), fingerprint.arrays(state)
    manifest = {
        "step": step,
        "arrays": {name: [*shape, hashes[name]] for name, shape in shapes.items()},
        "facts": {name: fingerprint.facts(value) for name, value in facts.items()},
    }
    return manifest | {"manifest": fingerprint.facts(manifest)}


def prepare(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest beside its checkpoint's folder, until `commit` moves it in."""
    waiting = _waiting(folder)
    partial = waiting.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(waiting)


def commit(folder: pathlib.Path) -> None:
    """Turns a fully written folder into a checkpoint, by a rename: it needs no room and is atomic."""
    _waiting(folder).replace(folder / NAME)


def committed(folder: pathlib.Path) -> bool:
    """Whether a folder has its manifest."""
    return (folder / NAME).exists()


def steps(root: pathlib.Path) -> list[int]:
    """Every step that has a folder in `root`, whole or not, in order."""
    if not root.exists():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal() and path.is_dir())


def tidy(root: pathlib.Path, *, half_sent: bool = False) -> None:
    """After a kill: commits what was fully written, removes what was half written or half deleted.

    `half_sent`: what has no manifest, too. It was on its way into a bucket, where nothing is renamed into its place.
    """
    for waiting in root.glob("*.manifest"):
        folder = root / waiting.stem
        if folder.exists() and not committed(folder):
            commit(folder)
        else:
            waiting.unlink()
    for rest in (*root.glob("*.partial"), *root.glob("*.old"), *root.glob("*.orbax-checkpoint-tmp*")):
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
    for step in steps(root) if half_sent else ():
        if not committed(root / str(step)):
            remove(root / str(step))


def remove(folder: pathlib.Path) -> None:
    """Deletes a checkpoint so that a kill leaves no half one."""
    shutil.rmtree(folder.replace(folder.with_suffix(".old")), ignore_errors=True)


def put_aside(folder: pathlib.Path) -> None:
    """Renames a damaged checkpoint to `<step>.damaged`, in place of an older one of that name."""
    aside = folder.with_suffix(".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.replace(aside)


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises DamagedError: it is missing, or not what was written."""
    if not committed(folder):
        raise DamagedError(f"it has no {NAME}")
    try:
        manifest = json_files.read_object(folder / NAME, "")
    except UserError:
        raise DamagedError(f"its {NAME} cannot be read") from None
    own = manifest.pop("manifest", None)
    if fingerprint.facts(manifest) != own or not _is_manifest(manifest):
        raise DamagedError(f"its {NAME} was changed")
    return manifest


def hold_against(manifest: dict[str, Any], state: PyTree, **facts: Any) -> None:
    """Compares what was restored, all of it or a part, with what was saved. Raises DamagedError: names what differs."""
    hashes = {name: description[-1] for name, description in manifest["arrays"].items()}
    bad = [name for name, value in fingerprint.arrays(state).items() if hashes.get(name) != value]
    bad += [name for name, value in facts.items() if fingerprint.facts(value) != manifest["facts"].get(name)]
    if bad:
        raise DamagedError(f"other content than was saved in {_few(bad)}")


def fits(manifest: dict[str, Any], abstract: PyTree) -> None:
    """Compares names, shapes and dtypes of the arrays with those asked for: Orbax would cast silently.

    Raises:
        UserError: the checkpoint belongs to another configuration.
    """
    saved = {name: (shape, dtype) for name, (shape, dtype, _) in manifest["arrays"].items()}
    asked = _shapes(abstract)
    differing = [name for name in sorted(saved.keys() | asked.keys()) if saved.get(name) != asked.get(name)]
    if differing and all(name.startswith("teacher/") and name not in asked for name in differing):
        raise UserError(
            f"the checkpoint at step {manifest['step']} holds a teacher, and with these settings nothing needs one any "
            "more: resume with the version that began the run, or start anew with another --workdir"
        )
    if differing:
        described = [f"{name} {_words(saved.get(name))} saved, {_words(asked.get(name))} now" for name in differing]
        raise UserError(
            f"the checkpoint at step {manifest['step']} does not fit this configuration ({len(differing)} arrays "
            f"differ: {_few(described)}): use the run's own configuration, or another --workdir"
        )


def check_claims(folder: pathlib.Path, abstract: PyTree) -> None:
    """Holds the room that arrays would take against the files of a checkpoint, before any of it is allocated.

    Raises:
        DamagedError: they claim far more than the files can hold.
    """
    claimed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if claimed > max(SMALL_CLAIM, MOST_PACKED * stored):
        raise DamagedError(f"its arrays claim {claimed / 1e9:.1f} GB, and all its files have {stored / 1e9:.3f} GB")


def _is_manifest(content: dict[str, Any]) -> bool:
    arrays, facts = content.get("arrays"), content.get("facts")
    if not isinstance(arrays, dict) or not isinstance(facts, dict) or not isinstance(content.get("step"), int):
        return False
    return all(
        isinstance(one, list) and len(one) == 3 and isinstance(one[0], list) and all(isinstance(n, int) for n in one[0])
        for one in arrays.values()
    )


def _shapes(tree: PyTree) -> dict[str, tuple[list[int], str]]:
    return {name: (list(shape), dtype) for name, (shape, dtype) in trees.shapes(tree).items()}  # as JSON gives them


def _words(shape: tuple[list[int], str] | None) -> str:
    return "absent" if shape is None else f"{shape[1]}{shape[0]}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _waiting(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_suffix(".manifest")
