"""The predict job: pictures in, a CSV out, with masks and drawn boxes beside it where a head makes them."""

import collections
import dataclasses
import functools
import itertools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.errors import UserError
from data.manifest.reading import Reading
from data.readers import memory
from data.readers.files import BadInput
from unimedi_jax.config.jobs import PredictConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import heads, results
from unimedi_jax.evaluation.heads import Head
from unimedi_jax.inference import dicomweb, outputs, pretrained, sources
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.prediction import predictors
from unimedi_jax.prediction.partial_table import PartialTable, Row
from unimedi_jax.prediction.predictors import Predictor

LOG = logging.getLogger(__name__)


def run(config: Mapping[str, Any], _: pathlib.Path | None = None) -> None:
    """Writes `config.out`, one row per image (of boxes, one per box); what cannot be read goes to its ledger.

    Rows are on the disk as they come, and the same command resumes from them.

    Raises:
        UserError: a setting is missing, nothing could be predicted, or the head belongs to another encoder.
    """
    settings = typed(PredictConfig, config)
    out = _out(settings)
    trained = pretrained.load(settings.checkpoint, settings.network)
    sources.check(trained)
    trained_heads = heads.load(settings.head, trained) if settings.head else {}
    with dicomweb.opened(settings.source, settings.download_gb) as source:
        _predict_source(source, settings, trained, trained_heads, out)


def _predict_source(
    source: pathlib.Path,
    settings: PredictConfig,
    trained: Pretrained,
    trained_heads: Mapping[str, Head],
    out: pathlib.Path,
) -> None:
    items, refused = sources.find(source, _reading(trained, trained_heads))
    if items and all(item.modality == "report" for item in items):
        raise UserError(f"config.source {settings.source} holds reports: name X-rays or CTs")
    by_modality = _predictors(settings, trained, trained_heads, out)
    partial = PartialTable(out.with_name(f".{out.name}.rows"), _identity(settings, trained, trained_heads, items))
    options = {"refused": refused, "by_modality": by_modality, "batch": settings.rows * trained.mesh.size}
    work = functools.partial(predict, **options, partial=partial)
    rows = memory.limited(work, settings.worker_memory_gb, items)
    if not rows:
        partial.remove()
        reason = f"; the first of {len(refused)} reasons: {refused[0].reason}" if refused else ""
        raise UserError(f"nothing could be predicted{reason}")
    results.write_cases(out, list(itertools.chain.from_iterable(rows.values())))
    partial.remove()
    ledger = sources.write_ledger(out, refused)
    kinds = collections.Counter(items[index].modality for index in rows)
    for note in itertools.chain.from_iterable(by_modality[kind].notes for kind in kinds):
        print(note)
    counted = ", ".join(f"{count} {NAMES[kind]}" for kind, count in sorted(kinds.items()))
    print(f"predicted: {counted} in {out}" + (f"; {len(refused)} left out, see {ledger}" if refused else ""))


def _out(settings: PredictConfig) -> pathlib.Path:
    """Where the table goes. It and the source are checked before weights are read."""
    missing = [name for name in ("checkpoint", "source", "out") if not getattr(settings, name)]
    if missing:
        raise UserError(f"config.{missing[0]} is empty: checkpoint (run or export), source and out are needed")
    out = pathlib.Path(settings.out).expanduser()
    if out.suffix != ".csv":
        raise UserError(f"config.out {out} does not end in .csv")
    outputs.check_file(out, "config.out")
    if settings.head and settings.ct_slices is not None:
        raise UserError(
            "the head has the ct_slices that it was trained with: leave out config.ct_slices beside config.head"
        )
    dicomweb.check(settings.source)
    return out


def _reading(trained: Pretrained, by_modality: Mapping[str, Head]) -> Reading:
    """How files are read: as the records that a modality's head was trained on, else as those of the encoder."""
    of_head = {modality: head.reading(trained) for modality, head in by_modality.items()}
    xray, ct = (of_head.get(modality, trained.reading) for modality in ("xray", "ct"))
    grid = dataclasses.replace(ct.grid, film_size=xray.grid.film_size)
    return dataclasses.replace(ct, grid=grid, by_largest=xray.by_largest)


def _predictors(
    settings: PredictConfig, trained: Pretrained, by_modality: Mapping[str, Head], out: pathlib.Path
) -> dict[str, Predictor]:
    if not settings.head:
        return predictors.zero_shot(trained, settings)
    place = predictors.Place(out.with_suffix(""), out)
    return predictors.of_heads(by_modality, trained, settings.rows, place)


def _identity(
    settings: PredictConfig, trained: Pretrained, by_modality: Mapping[str, Head], items: Sequence[sources.Item]
) -> list[Any]:
    """Whatever the rows depend on, as JSON: weights, settings, heads or prompts, and the items with their files."""
    network = [trained.fingerprints, trained.network, trained.config["model"], trained.config["input"]]
    by_head = {modality: head.fingerprint for modality, head in by_modality.items()}
    by_prompts = None if by_head else [predictors.prompt_pairs(trained, settings), settings.score, settings.ct_slices]
    return [network, by_head, by_prompts, sources.rules(trained.grid), sources.facts(items)]


def _answers(predictor: Predictor, pixels: Sequence[np.ndarray]) -> Sequence[Any]:
    """The answers for pictures, together where they are of one shape."""
    if len({x.shape for x in pixels}) == 1:
        return predictor.answers(np.stack(pixels))
    return [predictor.answers(x[None])[0] for x in pixels]


def predict(
    items: Sequence[sources.Item],
    refused: list[sources.Rejected],
    by_modality: Mapping[str, Predictor],
    partial: PartialTable,
    *,
    batch: int,
) -> dict[int, list[Row]]:
    """Rows of the items that can be read, by index and in order; the others go to `refused`.

    Those that `partial` has are not computed again, and it gets the others as they come.
    """
    rows, names = partial.read(), sources.stems(items)
    if rows:
        LOG.info("resuming: %d of %d items are predicted already", len(rows), len(items))
    done = [index in rows for index in range(len(items))]
    for modality, predictor in by_modality.items():
        readable = sources.read(items, modality, refused, skip=done)
        while some := list(itertools.islice(readable, batch)):
            made = {}
            for (index, _), answer in zip(some, _answers(predictor, [pixels for _, pixels in some]), strict=True):
                try:
                    made[index] = _rows(predictor, items[index], names[index], answer)
                except BadInput as error:  # it was read a second time, for its own size
                    refused.append(sources.Rejected(index + 1, items[index].id, str(error)))
                except (UserError, OSError):  # what is written cannot be: no fault of this file
                    raise
                except Exception as error:  # what one file leads to must not lose the others
                    refused.append(sources.Rejected(index + 1, items[index].id, f"unreadable: {type(error).__name__}"))
            partial.add(made)
            rows |= made
    predicted = " and ".join(NAMES[modality] for modality in by_modality)
    refused += sources.of_others(items, by_modality, f"this predicts {predicted}")
    return dict(sorted(rows.items()))


def _rows(predictor: Predictor, item: sources.Item, stem: str, answer: Any) -> list[Row]:
    """The rows of an item, whose values are text and Python's numbers."""
    shared = {"file": item.id, "series": sources.series(item), "modality": item.modality}
    plain = (shared | row for row in predictor.rows(item, stem, answer))
    return [{name: x.item() if isinstance(x, np.generic) else x for name, x in row.items()} for row in plain]
