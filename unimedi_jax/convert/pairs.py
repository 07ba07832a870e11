"""Report towers that were released beside a ViT, and the projections that bring both into one space."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unimedi_jax.convert import bert
from unimedi_jax.convert.names import State
from unimedi_jax.models import heads, text
from unimedi_jax.models.released import GeluProjection

OF_A_HEAD = 64  # entries, of every BERT that these systems have
LAYER = re.compile(r"report\.encoder\.layer\.(\d+)\.")
# MGCA's Sequential: Linear, BatchNorm, ReLU, Linear, BatchNorm without scale.
MGCA = {"0": "fc1", "1": "norm1", "3": "fc2", "4": "norm2"}


class Pair(NamedTuple):
    """A report tower and two projections, and their arrays by the names of `convert/names.py`."""

    report: text.ReportTower
    project_image: Any
    project_report: Any
    state: State
    embedding: int  # width of the joint space
    used: tuple[str, ...]  # beginnings of the file's names that it was made of


def find(state: State) -> Pair | None:
    """MGCA's (a checkpoint of its training) or open_clip's with a BERT (BiomedCLIP); None where there is neither."""
    if "img_encoder_q.global_embed.head.0.weight" in state and "text_encoder_q.global_embed.head.0.weight" in state:
        return _mgca(state)
    if "visual.head.proj.weight" in state and "text.transformer.embeddings.word_embeddings.weight" in state:
        return _open_clip(state)
    return None


def _mgca(state: State) -> Pair:
    report = _bert(state, "text_encoder_q.model.")
    arrays = {}
    for tower, ours in (("img_encoder_q", "project_image"), ("text_encoder_q", "project_report")):
        for number, name in MGCA.items():
            start = f"{tower}.global_embed.head.{number}."
            leaves = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            arrays |= {f"{ours}.{name}.{leaf}": x for leaf, x in leaves.items() if leaf != "num_batches_tracked"}
    hidden, width = len(arrays["project_image.fc1.weight"]), len(arrays["project_image.fc2.weight"])
    image, words = (heads.Projection(width, hidden, dtype=np.float32) for _ in range(2))
    used = ("img_encoder_q.global_embed.", "text_encoder_q.global_embed.", "text_encoder_q.model.")
    return Pair(_tower(report), image, words, report | arrays, width, used)


def _open_clip(state: State) -> Pair:
    report = _bert(state, "text.transformer.")
    image = state["visual.head.proj.weight"]
    arrays = {"project_image.fc.weight": image}
    if "text.proj.weight" in state:
        arrays["project_report.fc.weight"] = state["text.proj.weight"]
        project_report: Any = heads.Projection(len(image), kind="linear", dtype=np.float32)
    else:
        first, last = state["text.proj.0.weight"], state["text.proj.2.weight"]
        arrays |= {"project_report.fc1.weight": first, "project_report.fc2.weight": last}
        project_report = GeluProjection(len(last), len(first))
    project_image = heads.Projection(len(image), kind="linear", dtype=np.float32)
    used = ("visual.head.proj.", "text.transformer.", "text.proj.")
    return Pair(_tower(report), project_image, project_report, report | arrays, len(image), used)


def _bert(state: Mapping[str, np.ndarray], prefix: str) -> State:
    """A BERT's arrays as the report tower's; what is behind its last layer stays behind."""
    own = {bert.plain(key.removeprefix(prefix)): value for key, value in state.items() if key.startswith(prefix)}
    return {f"report.{key}": value for key, value in own.items() if not bert.SKIPPED.match(key)}


def _tower(report: State) -> text.ReportTower:
    words, width = report["report.embeddings.word_embeddings.weight"].shape
    depth = len({match[1] for key in report if (match := LAYER.match(key))})
    positions = len(report["report.embeddings.position_embeddings.weight"])
    wide = len(report["report.encoder.layer.0.intermediate.dense.weight"])
    size = width, depth, max(width // OF_A_HEAD, 1), wide
    return text.ReportTower(words, *size, max_positions=positions, dropout=0.0, dtype=np.float32)
