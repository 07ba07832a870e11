"""Makes an index: every case of a source through the network, in an order that an interrupted build takes up again."""

import itertools
import logging
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pyarrow import parquet

from data import json_files, progress
from data.errors import UserError
from unimedi_jax import fingerprint
from unimedi_jax.inference import embed
from unimedi_jax.search import cases, graph, pictures, store
from unimedi_jax.search.cases import Case
from unimedi_jax.search.entries import Entries, Entry

LOG = logging.getLogger(__name__)


def of_entries(
    folder: pathlib.Path, model: embed.Model, entries: Entries, *, picture_size: int, keep_reports: bool, exact: int
) -> None:
    """Builds the index of `entries` in a folder; one that is there already must be the same.

    Raises:
        UserError: the folder holds another index, or nothing could be read.
    """
    width = model.pretrained.config["model"]["embedding"]
    identity = fingerprint.facts([entries.facts, model.fingerprint, picture_size, keep_reports])
    facts = _facts(entries.total, width, entries.labels, picture_size, identity)
    facts |= {"network": model.fingerprint, "has_reports": keep_reports}
    if is_there(folder, identity, exact):
        return
    if entries.total > exact:
        graph.library()  # what is missing is said before hours of work, not after them
    part = folder / facts["part"]
    arrays = store.allocate(part, facts)
    known = _cases(part / store.CASES)
    done = len(known)
    if done:
        LOG.info("resuming: %d of %d cases are embedded already", done, entries.total)
    with (
        (part / store.CASES).open("a", encoding="utf-8") as lines,
        progress.shown(entries.total, "cases", done=done) as tick,
    ):
        for batch in _batches(entries.read(known), model.embedder.rows):
            rows = slice(done, done + len(batch))
            for name, values in _embedded(model, batch, facts).items():
                arrays[name][rows] = values
            lines.writelines(cases.line(entry.case, keep_report=keep_reports) for entry in batch)
            lines.flush()
            done += len(batch)
            tick(len(batch))
    if not done:
        raise UserError(f"nothing could be indexed; the first reason: {entries.refused[0].reason}")
    _finish(folder, {**facts, "rows": done}, exact)


def of_embeddings(folder: pathlib.Path, path: pathlib.Path, *, exact: int) -> None:
    """Builds the index of a .npz or .parquet of the embed job: no labels, pictures or report texts.

    The file names the network that made it, unless it was written before files did.

    Raises:
        UserError: the folder holds another index, or the file is none that embed writes.
    """
    status = path.stat()
    identity = fingerprint.facts([path.name, status.st_size, status.st_mtime_ns])
    if is_there(folder, identity, exact):
        return
    try:
        columns, network = _columns(path)
        ids, kinds = (columns[name].astype(str) for name in ("ids", "modality"))
        z, z_report = (np.asarray(columns[name], np.float32).reshape(len(ids), -1) for name in ("z", "z_report"))
        z, z_report = (x if x.shape[1] else np.full(z.shape, np.nan, np.float32) for x in (z, z_report))
        facts = _facts(len(ids), z.shape[1], (), 0, identity) | {"network": network, "has_reports": False}
        arrays = store.allocate(folder / facts["part"], facts)
        arrays["z"][:] = np.where((kinds == "report")[:, None], np.nan, z)
        arrays["z_report"][:] = z_report
    except (KeyError, ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no file of embeddings as configs/embed.py writes them: embed again") from error
    rows = zip(ids.tolist(), kinds.tolist(), strict=True)
    lines = [cases.line(Case(name, modality=kind), keep_report=False) for name, kind in rows]
    (folder / facts["part"] / store.CASES).write_text("".join(lines), encoding="utf-8")
    _finish(folder, facts, exact)


def is_there(folder: pathlib.Path, identity: str, exact: int) -> bool:
    """Whether the index has been built already; graphs that its build was interrupted before are added.

    Raises:
        UserError: the folder holds another index.
    """
    if not (folder / store.FACTS).exists():
        return False
    known = json_files.read_object(folder / store.FACTS, store.ADVICE).get("identity")
    if known != identity:
        raise UserError(
            f"{folder} holds the index of other data, of another network or with other settings: remove it or name "
            "another folder; to search it, leave config.data and config.source empty"
        )
    LOG.info("%s is built already", folder)
    add_graphs(folder, exact)
    return True


def add_graphs(folder: pathlib.Path, exact: int) -> None:
    """Adds what a search among more than `exact` cases needs; an index of fewer stays as it is."""
    index = store.read(folder)
    if len(index) <= exact or index.graphs:
        return
    for name in ("z", "z_report"):
        for file, array in graph.build(index, name).items():
            np.save(index.part / file, array)
    store.publish(folder, {name: value for name, value in index.facts.items() if name != "files"})


def _cases(path: pathlib.Path) -> list[str]:
    """The ids of the cases that are embedded already. Raises UserError where they cannot be read."""
    try:
        return cases.columns(path)["id"].tolist() if cases.count_lines(path) else []
    except ValueError as error:
        raise UserError(f"{path} is damaged, {error}: remove the folder of the index and build it again") from error


def _facts(rows: int, width: int, labels: Sequence[str], picture_size: int, identity: str) -> dict[str, Any]:
    sizes = {"rows": rows, "width": width, "picture_size": picture_size}
    return {"part": identity[:16], "identity": identity, "labels": list(labels), **sizes}


def _finish(folder: pathlib.Path, facts: Mapping[str, Any], exact: int) -> None:
    store.shorten(folder / facts["part"], facts)
    store.publish(folder, facts)
    add_graphs(folder, exact)


def _batches(entries: Iterator[Entry], rows: int) -> Iterator[list[Entry]]:
    """Up to `rows` entries of one modality."""
    for _, group in itertools.groupby(entries, key=lambda entry: entry.case.modality):
        while batch := list(itertools.islice(group, rows)):
            yield batch


def _embedded(model: embed.Model, batch: Sequence[Entry], facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The rows of each array of a batch of one modality."""
    count, width, size = len(batch), facts["width"], facts["picture_size"]
    z, z_report = (np.full((count, width), np.nan, np.float32) for _ in range(2))
    if batch[0].pixels is not None:
        pixels, views = np.stack([entry.pixels for entry in batch]), [entry.view for entry in batch]
        z[:] = model.features(batch[0].case.modality, pixels, views).z
    with_report = [i for i, entry in enumerate(batch) if entry.case.report]
    if with_report and model.pretrained.tokenizer is not None:
        z_report[with_report] = model.embed_reports([batch[i].case.report for i in with_report])
    labels = [[entry.labels.get(name, -1) for name in facts["labels"]] for entry in batch]
    arrays = {
        "z": z,
        "z_report": z_report,
        "pictures": np.stack([pictures.small(entry.pixels, size) for entry in batch]),
    }
    return arrays | {"labels": np.array(labels, np.int8).reshape(count, -1)}


def _columns(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
    """Columns of a file of embeddings, and the network that made it; "" where it does not say."""
    names = ("ids", "modality", "z", "z_report")
    if path.suffix == ".npz":
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            network = str(arrays["network"].item()) if "network" in arrays else ""
            return {name: arrays[name] for name in names}, network
    table = parquet.read_table(path)
    network = (table.schema.metadata or {}).get(b"network", b"").decode()
    columns = {name: table[name].combine_chunks() for name in names if name in table.column_names}
    flat = {
        name: np.asarray(column.flatten()) if name.startswith("z") else column.to_numpy(zero_copy_only=False)
        for name, column in columns.items()
    }
    return {"z_report": np.zeros(0, np.float32), **flat}, network
