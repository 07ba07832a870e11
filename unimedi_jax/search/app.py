"""What the page answers: forms and addresses in, pages out; the network and the index behind them."""

import contextlib
import functools
import pathlib
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import numpy as np

from data import pages
from data.errors import UserError
from unimedi_jax.config.jobs import SearchConfig
from unimedi_jax.inference import embed
from unimedi_jax.report import page as report_page
from unimedi_jax.search import codes, decoding, page, query, store, uploads, view
from unimedi_jax.search.page import Asked
from unimedi_jax.search.ranking import Filters

TEMPLATE = report_page.TEMPLATE.with_name("message.html")
LONGEST_VALUE = 200  # letters of a filter
MOST_WAITING = 4  # queries that hold their bytes in memory


class Failed(Exception):  # noqa: N818 (an answer too)
    """A request that gets another answer than it asked for."""

    def __init__(self, status: HTTPStatus, problem: str, text: str = "") -> None:
        super().__init__(problem)
        self.status = status
        self.page = text or message(problem)


def message(problem: str) -> str:
    """A page of one line."""
    return pages.render(TEMPLATE, problem=problem)


class App:
    """An index and the network that reads queries. Threads may share it: one query at a time is computed."""

    def __init__(self, folder: pathlib.Path, model: embed.Model, settings: SearchConfig) -> None:
        self._folder, self._model, self._settings = folder, model, settings
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._stamp, self._index = store.stamp(folder), _prepared(folder)
        limits = {"seconds": settings.upload_seconds, "gigabytes": settings.worker_memory_gb}
        read = functools.partial(decoding.read_folder, reading=model.pretrained.reading)
        self._decoder = decoding.Decoder(read, model.pretrained.grid, **limits)
        self.most_bytes, self.most_seconds = settings.upload_mb << 20, settings.upload_seconds

    def warm_up(self) -> None:
        """Compiles what queries need: none of them has to wait for it."""
        for modality in self._model.pretrained.reads:
            shape = decoding.shapes(self._model.pretrained.grid)[modality]
            known = [n or default for n, default in zip(shape, self._model.pretrained.size(modality), strict=True)]
            query.embedded(self._model, modality, np.zeros(known, decoding.DTYPES[modality]))
        if self._model.pretrained.tokenizer is not None:
            query.embedded(self._model, text="a sentence")

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among the few queries that are held in memory. Raises Failed where all are taken."""
        if not self._waiting.acquire(blocking=False):
            raise Failed(HTTPStatus.SERVICE_UNAVAILABLE, "other queries are being answered: try again")
        try:
            yield
        finally:
            self._waiting.release()

    def form(self) -> str:
        """The page before the first query."""
        return page.served(self._current(), Asked())

    def neighbours(self, values: Mapping[str, str]) -> str:
        """The page of a case of the index, by the values `row` and filters of an address."""
        index, filters = self._current(), _filters(values)
        row = values.get("row", "")
        number = int(row) if row.isascii() and row.isdecimal() and len(row) < 16 else -1
        with self._told(index, Asked(filters)):
            vector = query.of_case(index, number)
            asked = Asked(filters, modality=index.columns["modality"][number], row=number)
            return self._page(index, vector, asked)

    def search(self, content_type: str, body: bytes | bytearray) -> str:
        """The page of a query, a form with `picture`, `text` and filters."""
        index = self._current()
        try:
            form = uploads.parse(content_type, body)
        except uploads.FormError as error:
            raise Failed(HTTPStatus.BAD_REQUEST, f"the query cannot be read: {error}") from error
        asked = Asked(_filters(form.fields), form.fields.get("text", "")[: query.LONGEST_TEXT])
        with self._told(index, asked):
            modality, pixels, taken = self._decoder.read(form.files) if form.files else ("", None, "")
            with self._lock:
                vector = query.embedded(self._model, modality, pixels, asked.text, taken)
            return self._page(index, vector, Asked(asked.filters, asked.text, modality, pixels))

    def _page(self, index: store.Index, vector: np.ndarray, asked: Asked) -> str:
        with self._lock:
            find = functools.partial(query.answer, k=self._settings.k, exact=self._settings.exact)
            answer = find(index, vector, asked.filters, without=asked.row)
        shown = view.Shown.of(index, answer, show_reports=self._settings.shows_reports)
        return page.served(index, asked, shown)

    @contextlib.contextmanager
    def _told(self, index: store.Index, asked: Asked) -> Iterator[None]:
        """What is wrong with a query stands on the page, above its form."""
        try:
            yield
        except (UserError, decoding.UploadError) as error:
            text = page.served(index, asked, problem=f"This query cannot be answered: {error}")
            raise Failed(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), text) from error

    def _current(self) -> store.Index:
        """The index as it is on the disk: of a patient who was deleted nothing is shown any more."""
        with self._lock:
            if (now := store.stamp(self._folder)) != self._stamp:
                self._index, self._stamp = _prepared(self._folder), now
            return self._index


def _prepared(folder: pathlib.Path) -> store.Index:
    index = store.read(folder)
    codes.prepare(index)
    return index


def _filters(values: Mapping[str, str]) -> Filters:
    return Filters(*(values.get(name, "")[:LONGEST_VALUE] for name in ("modality", "split", "label")))
