"""The predict job: pictures in, a CSV out, with masks and drawn boxes beside it where a head makes them."""

import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.errors import UserError
from data.manifest.reading import Reading
from data.readers.files import BadInput
from unimedi_jax.config.jobs import PredictConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import heads, results
from unimedi_jax.inference import outputs, pretrained, sources
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.prediction import predictors
from unimedi_jax.prediction.predictors import Predictor, Row


def run(config: Mapping[str, Any], _: pathlib.Path | None = None) -> None:
    """Writes `config.out`, one row per image (of boxes, one per box); what cannot be read goes to its ledger.

    Raises:
        UserError: a setting is missing, nothing could be predicted, or the head belongs to another encoder.
    """
    settings = typed(PredictConfig, config)
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
    source = pathlib.Path(settings.source).expanduser()
    if not source.exists():  # before weights are read
        raise UserError(f"config.source {source} does not exist")
    trained = pretrained.load(settings.checkpoint, settings.network)
    sources.check(trained)
    trained_heads = heads.load(settings.head, trained) if settings.head else {}
    items, refused = sources.find(source, _reading(trained, trained_heads))
    if items and all(item.modality == "report" for item in items):
        raise UserError(f"config.source {settings.source} holds reports: name X-rays or CTs")
    by_modality = _predictors(settings, trained, trained_heads, out)
    rows = predict(items, refused, by_modality, batch=settings.rows * trained.mesh.size)
    if not rows:
        reason = f"; the first of {len(refused)} reasons: {refused[0].reason}" if refused else ""
        raise UserError(f"nothing could be predicted{reason}")
    results.write_cases(out, list(itertools.chain.from_iterable(rows.values())))
    ledger = sources.write_ledger(out, refused)
    kinds = collections.Counter(items[index].modality for index in rows)
    for note in itertools.chain.from_iterable(by_modality[kind].notes for kind in kinds):
        print(note)
    counted = ", ".join(f"{count} {NAMES[kind]}" for kind, count in sorted(kinds.items()))
    print(f"predicted: {counted} in {out}" + (f"; {len(refused)} left out, see {ledger}" if refused else ""))


def _reading(trained: pretrained.Pretrained, by_modality: Mapping[str, heads.Head]) -> Reading:
    """How files are read: as the records that a modality's head was trained on, else as those of the encoder."""
    of_head = {modality: head.reading(trained) for modality, head in by_modality.items()}
    xray, ct = (of_head.get(modality, trained.reading) for modality in ("xray", "ct"))
    grid = dataclasses.replace(ct.grid, film_size=xray.grid.film_size)
    return dataclasses.replace(ct, grid=grid, by_largest=xray.by_largest)


def _predictors(
    settings: PredictConfig, trained: pretrained.Pretrained, by_modality: Mapping[str, heads.Head], out: pathlib.Path
) -> dict[str, Predictor]:
    if not settings.head:
        return predictors.zero_shot(trained, settings)
    place = predictors.Place(out.with_suffix(""), out)
    return predictors.of_heads(by_modality, trained, settings.rows, place)


def _answers(predictor: Predictor, pixels: Sequence[np.ndarray]) -> Sequence[Any]:
    """The answers for pictures, together where they are of one shape."""
    if len({x.shape for x in pixels}) == 1:
        return predictor.answers(np.stack(pixels))
    return [predictor.answers(x[None])[0] for x in pixels]


def predict(
    items: Sequence[sources.Item], refused: list[sources.Rejected], by_modality: Mapping[str, Predictor], *, batch: int
) -> dict[int, list[Row]]:
    """Rows of the items that can be read, by index and in order; the others go to `refused`."""
    rows: dict[int, list[Row]] = {}
    names = sources.stems(items)
    for modality, predictor in by_modality.items():
        readable = sources.read(items, modality, refused)
        while some := list(itertools.islice(readable, batch)):
            answers = _answers(predictor, [pixels for _, pixels in some])
            for (index, _), answer in zip(some, answers, strict=True):
                item = items[index]
                shared = {"file": item.id, "series": sources.series(item), "modality": modality}
                try:
                    rows[index] = [shared | row for row in predictor.rows(item, names[index], answer)]
                except BadInput as error:  # it was read a second time, for its own size
                    refused.append(sources.Rejected(index + 1, item.id, str(error)))
                except (UserError, OSError):  # what is written cannot be: no fault of this file
                    raise
                except Exception as error:  # what one file leads to must not lose the others
                    refused.append(sources.Rejected(index + 1, item.id, f"unreadable: {type(error).__name__}"))
    predicted = " and ".join(NAMES[modality] for modality in by_modality)
    refused += sources.of_others(items, by_modality, f"this predicts {predicted}")
    return dict(sorted(rows.items()))
