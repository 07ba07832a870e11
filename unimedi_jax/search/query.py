"""A query, a picture, a sentence or both, and the cases that are near it."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from data.errors import UserError
from unimedi_jax.inference import embed
from unimedi_jax.search import ranking
from unimedi_jax.search.ranking import Filters, Hit
from unimedi_jax.search.store import Index

LOG = logging.getLogger(__name__)
LONGEST_TEXT = 4000  # letters: a report has some hundreds, of which the network reads its first tokens


@dataclasses.dataclass(frozen=True)
class Answer:
    """The nearest pictures and the nearest reports, best first."""

    pictures: list[Hit]
    reports: list[Hit]


def check(index: Index, model: embed.Model) -> None:
    """Whether a network's vectors may be compared with those of an index; a warning where it does not say whose it has.

    Raises:
        UserError: another network made the index, as far as it says.
    """
    known, width = index.facts["network"], model.pretrained.config["model"]["embedding"]
    if index.facts["width"] != width or (known and known != model.fingerprint):
        raise UserError(
            f"{index.folder} was made by another network than {model.pretrained.path}, or with other ct_slices: name "
            "its checkpoint, or build an index of this one"
        )
    if not known:
        LOG.warning(
            "%s does not say which network made it, as its file of embeddings did not: its answers mean something if "
            "that was %s; to be sure, embed again",
            index.folder,
            model.pretrained.path,
        )


def embedded(
    model: embed.Model, modality: str = "", pixels: np.ndarray | None = None, text: str = "", view: str = ""
) -> Float[np.ndarray, " e"]:
    """The unit vector of a query: of the picture, of the sentence, or of the sum of both unit vectors.

    `pixels`: an X-ray uint8 (256, 256) or a CT int16 HU (32, 128, 128), as readers give them; `view`: that of an X-ray.

    Raises:
        UserError: there is neither, the network does not read what there is, or the text is too long.
    """
    parts = []
    if pixels is not None:
        if modality not in model.pretrained.reads:
            raise UserError(
                f"this network reads {' and '.join(model.pretrained.reads)} alone: the query is a {modality}"
            )
        parts.append(model.features(modality, pixels[None], [view]).z[0])
    if text.strip():
        if len(text) > LONGEST_TEXT:
            raise UserError(f"the sentence has {len(text)} letters, at most {LONGEST_TEXT} are taken")
        parts.append(model.embed_reports([text])[0])
    if not parts:
        raise UserError("the query is empty: give config.query, a picture, or config.text, a sentence")
    return ranking.unit(np.sum([ranking.unit(np.asarray(part, np.float32)) for part in parts], axis=0))


def of_case(index: Index, row: int) -> Float[np.ndarray, " e"]:
    """The vector of a case of the index, of its picture or, without one, of its report.

    Raises:
        UserError: there is no such case, or it has no vector.
    """
    for vectors in (index.z, index.z_report):
        if 0 <= row < len(index) and np.isfinite(vectors[row]).all():
            return np.array(vectors[row])
    raise UserError("the index has no such case, or it was removed")


def answer(
    index: Index, vector: Float[np.ndarray, " e"], filters: Filters, *, k: int, exact: int, without: int | None = None
) -> Answer:
    """The `k` nearest pictures and reports among the cases that pass, but for the case `without`."""
    mask = ranking.allowed(index, filters)
    if without is not None:
        mask = np.ones(len(index), bool) if mask is None else mask.copy()
        mask[without] = False
    return Answer(*(ranking.nearest(index, kind, vector, k, mask, exact) for kind in ranking.KINDS))


def facts(index: Index, hit: Hit, *, show_reports: bool) -> dict[str, Any]:
    """What a table, a file or a page says of a case: score, id, modality, split, findings, report where it is shown."""
    values = index.labels[hit.row]
    labels = {
        name: None if value < 0 else int(value) for name, value in zip(index.facts["labels"], values, strict=True)
    }
    columns = {name: index.columns[name][hit.row] for name in ("id", "patient", "modality", "split")}
    report = {"report": index.report(hit.row)} if show_reports else {}
    return {"score": round(hit.score, 6), **columns, "labels": labels, **report}


def findings(labels: Mapping[str, int | None]) -> str:
    """The names of the findings that a case has."""
    return ", ".join(name for name, value in labels.items() if value) or "no finding marked"
