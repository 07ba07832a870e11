"""The search job: makes an index, deletes a patient from it, answers one query, or serves a page."""

import contextlib
import functools
import json
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data.errors import UserError
from data.manifest import privacy
from data.manifest.reading import Reading
from data.readers import memory
from unimedi_jax.config.jobs import SearchConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.inference import dicomweb, embed, outputs, sources
from unimedi_jax.search import build, entries, page, query, ranking, server, store, view

LOG = logging.getLogger(__name__)
EMBEDDINGS = (".npz", ".parquet")


def run(config: Any, _: pathlib.Path | None = None) -> None:
    """Does what the settings ask for, in this order: build, delete, answer, serve."""
    settings = typed(SearchConfig, config)
    _check(settings)
    folder = pathlib.Path(settings.index).expanduser()
    load = functools.cache(functools.partial(_load, settings))
    if settings.data or settings.source:
        _build(settings, folder, load)
    if settings.delete:
        _delete(settings, folder)
    if settings.query or settings.text:
        _answer(settings, folder, load())
    if settings.serve:
        server.serve(folder, load(), settings)
    elif not settings.query and not settings.text:
        print(f"{folder}: {view.summary(store.read(folder))}")


def _check(settings: SearchConfig) -> None:
    if not settings.index:
        raise UserError("config.index is empty: name the folder of an index, as in --config.index=indices/mine")
    if settings.data and settings.source:
        raise UserError("config.data and config.source are both given: an index is made of one of them")
    out = pathlib.Path(settings.out)
    if settings.out and not (settings.query or settings.text):
        raise UserError("config.out is given without a query: give config.query or config.text")
    if settings.out and out.suffix not in (".json", ".html"):
        raise UserError(f"config.out {out} ends in neither .json nor .html")
    if settings.out:
        outputs.check_file(out.expanduser(), "config.out")
    for setting in ("source", "query"):
        if value := getattr(settings, setting):
            dicomweb.check(value, f"config.{setting}")


def _load(settings: SearchConfig) -> embed.Model:
    if not settings.checkpoint:
        raise UserError("config.checkpoint is empty: name the run or export whose network makes and reads the index")
    return embed.load(settings.checkpoint, settings.network, rows=settings.rows, ct_slices=settings.ct_slices)


def _build(settings: SearchConfig, folder: pathlib.Path, load: Callable[[], embed.Model]) -> None:
    outputs.check_folder(folder, "config.index")
    if pathlib.Path(settings.source).suffix in EMBEDDINGS:
        source = pathlib.Path(settings.source).expanduser()
        if not source.is_file():
            raise UserError(f"config.source: there is no file {source}")
        build.of_embeddings(folder, source, exact=settings.exact)
        return
    options = {"picture_size": settings.picture_size, "keep_reports": settings.keep_reports, "exact": settings.exact}
    if settings.data:
        names = [name.strip() for name in settings.data.split(",")]
        parts = entries.of_sets(load().pretrained, settings.data_dir, names)
        build.of_entries(folder, load(), parts, **options)
        return
    with dicomweb.opened(settings.source, settings.download_gb) as source:
        parts = entries.of_files(load().pretrained, source)
        make = functools.partial(build.of_entries, folder, load(), **options)
        memory.limited(make, settings.worker_memory_gb, parts)
    if parts.refused:
        ledger = sources.write_ledger(folder / "index", parts.refused)
        print(f"{len(parts.refused)} left out, see {ledger}")


def _delete(settings: SearchConfig, folder: pathlib.Path) -> None:
    """Removes the cases of a patient: as the index names it, or the source, where the salt of its sets is here."""
    index = store.read(folder)
    names = [settings.delete]
    data_dir = pathlib.Path(settings.data_dir).expanduser()
    if (data_dir / privacy.SALT).is_file():
        names.append(privacy.pseudonym(settings.delete, privacy.salt_of(data_dir)))
    gone = np.isin(index.columns["patient"], names)
    if not gone.any():
        gone = index.columns["id"] == settings.delete
    store.sweep(folder)
    if not gone.any():
        raise UserError(
            f"{folder} has no such patient or case. Patients of a set are named by their hash, or by their own name if "
            f"config.data_dir holds the set's salt ({data_dir / privacy.SALT}); indexed files are named by their path"
        )
    store.rewrite(index, ~gone)
    build.add_graphs(folder, settings.exact)
    print(f"removed {int(gone.sum())} cases from {folder}; {len(index) - int(gone.sum())} are left")


def _answer(settings: SearchConfig, folder: pathlib.Path, model: embed.Model) -> None:
    index = store.read(folder)
    query.check(index, model)
    modality, pixels, taken = "", None, ""
    if settings.query:
        reading = model.pretrained.reading
        modality, pixels, taken = memory.limited(lambda _: _picture(settings, reading), settings.worker_memory_gb, None)
    vector = query.embedded(model, modality, pixels, settings.text, taken)
    filters = ranking.Filters(settings.modality, settings.split, settings.label)
    answer = query.answer(index, vector, filters, k=settings.k, exact=settings.exact)
    shown = view.Shown.of(index, answer, show_reports=settings.shows_reports)
    print(view.table(shown))
    if settings.out:
        out = pathlib.Path(settings.out).expanduser()
        asked = page.Asked(filters, settings.text, modality, pixels)
        text = page.static(index, shown, asked) if out.suffix == ".html" else json.dumps(shown.json(), indent=1) + "\n"
        page.write(out, text)
        print(f"written: {out}")


def _picture(settings: SearchConfig, reading: Reading) -> tuple[str, np.ndarray, str]:
    """Modality, pixels and view of `config.query`."""
    with _one_picture(settings, reading) as item:
        refused: list[Any] = []
        pixels = [x for _, x in sources.read([item], item.modality, refused)]
        if not pixels:
            raise UserError(f"config.query cannot be read: {refused[0].reason}")
        return item.modality, pixels[0], item.view


@contextlib.contextmanager
def _one_picture(settings: SearchConfig, reading: Reading) -> Iterator[sources.Item]:
    with dicomweb.opened(settings.query, settings.download_gb, "config.query") as source:
        items = [item for item in sources.find(source, reading)[0] if item.modality != "report"]
        if len(items) != 1:
            kinds = ", ".join(f"{item.modality} {item.id}" for item in items[:5])
            raise UserError(f"config.query holds {len(items)} pictures, a query is one: name one of them ({kinds})")
        yield items[0]
