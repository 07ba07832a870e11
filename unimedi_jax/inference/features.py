"""Embeds the records of a split: through the model to arrays on the host. All evaluations of embeddings start here."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data.reports import tokenizer
from unimedi_jax import patches, sharding
from unimedi_jax.input import pipeline, records, transforms
from unimedi_jax.metrics import linear_probe, ranking, slices
from unimedi_jax.models import towers
from unimedi_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Embedder:
    """The model's inference functions, jitted once for a run, and the batch size they were made for."""

    xray: Callable[..., towers.Features]
    ct: Callable[..., towers.Features]
    report: Callable[..., jax.Array]
    rows: int
    mesh: Mesh
    ct_slices: bool

    @classmethod
    def of(cls, model: towers.UniMedI, mesh: Mesh, *, rows: int, ct_slices: bool) -> "Embedder":
        """`rows` a batch and device; `ct_slices`: CTs with their chosen slices, or by their volume alone."""

        def method(name: str, *static: Any) -> Callable[..., Any]:
            return jax.jit(lambda variables, *x: model.apply(variables, *x, *static, method=name))

        images = method("xray_features"), method("ct_features", ct_slices)
        return cls(*images, method("embed_report"), rows * mesh.size, mesh, ct_slices)

    def __call__(self, function: Callable[..., Any], variables: PyTree, *arrays: Any) -> Any:
        """One batch on the devices, the result as host arrays (on every host the whole of it)."""
        placed = sharding.put_same(arrays, self.mesh)
        return multihost_utils.process_allgather(function(variables, *placed), tiled=True)


@dataclasses.dataclass(frozen=True)
class EmbeddedSplit:
    """Embeddings of one modality of one split, row i being record i."""

    cls: np.ndarray  # (n, d)
    z: np.ndarray  # (n, e) unit vectors
    z_report: np.ndarray | None  # (n, e); None if not asked for
    labels: np.ndarray  # (n, c) 1, 0, NaN unknown
    reports: tuple[str, ...]
    slice_scores: np.ndarray | None = None  # (n, layers), CTs
    lesions: np.ndarray | None = None  # (n, c, slices) bool, CTs with masks
    attention_auc: np.ndarray | None = None  # (n,) `ranking.attention_auc` of patches or layers; with masks
    names: tuple[str, ...] = ()  # c, of the labels

    @property
    def labelled(self) -> linear_probe.Labelled:
        """CLS with its labels."""
        return linear_probe.Labelled(self.cls, self.labels)


def embed(
    embedder: Embedder,
    variables: PyTree,
    dataset: records.RecordSet,
    sampler: transforms.ToSample,
    split: str,
    *,
    limit: int = 0,
    images_alone: bool = False,
) -> EmbeddedSplit:
    """Every record of a split through the network, at most `limit` (0 = all).

    `images_alone`: without the report tower.
    """
    of_image = embedder.xray if sampler.modality == "xray" else embedder.ct
    parts: dict[str, list[Any]] = {}
    count = len(dataset.contract["labels"])
    for batch in pipeline.evaluation(dataset, sampler, split, embedder.rows, limit=limit):
        output = embedder(of_image, variables, batch["tokens"])
        real = int(batch["mask"].sum())
        gathered = {"cls": output.cls, "z": output.z, "labels": batch["labels"]}
        gathered["reports"] = [records.text(report) for report in batch["report"]]
        if not images_alone:
            gathered["z_report"] = embedder(embedder.report, variables, batch["text"], batch["text_mask"])
        if output.slice_scores is not None:
            gathered["slice_scores"] = output.slice_scores
            if "lesion_mask" in batch:
                gathered["lesions"] = slices.lesion_slices(batch["lesion_mask"], count)
                layers = slices.touched_layers(gathered["lesions"].any(axis=1), layers=output.slice_scores.shape[1])
                gathered["attention_auc"] = ranking.attention_auc(output.slice_scores, layers)
        elif "lesion_mask" in batch:
            gathered["attention_auc"] = ranking.attention_auc(output.scores, _patches(batch["lesion_mask"], sampler))
        for name, values in gathered.items():
            parts.setdefault(name, []).extend(values[:real])
    reports = tuple(parts.pop("reports"))
    dtypes = {"lesions": bool}
    arrays = {name: np.stack(values).astype(dtypes.get(name, np.float32)) for name, values in parts.items()}
    facts = {"reports": reports, "names": tuple(dataset.contract["labels"])}
    return EmbeddedSplit(**facts, **{"z_report": None, **arrays})


def examples(
    embedder: Embedder,
    variables: PyTree,
    dataset: records.RecordSet,
    sampler: transforms.ToSample,
    split: str,
    rows: Sequence[int],
) -> dict[int, dict[str, Any]]:
    """Some records of a split with what the network gives for them, by row: for pictures.

    Each has the fields of `towers.Features` and those of the record that the sampler keeps.
    """
    of_image = embedder.xray if sampler.modality == "xray" else embedder.ct
    source = dataset.source(sampler.modality, split)
    shown: dict[int, dict[str, Any]] = {}
    for start in range(0, len(rows), embedder.rows):
        part = rows[start : start + embedder.rows]
        samples = [sampler(source[row]) for row in part]
        padding = samples[-1:] * (embedder.rows - len(part))
        output = embedder(of_image, variables, np.stack([sample["tokens"] for sample in [*samples, *padding]]))
        for index, (row, sample) in enumerate(zip(part, samples, strict=True)):
            fields = {name: value[index] for name, value in output._asdict().items() if value is not None}
            shown[row] = fields | {name: sample[name] for name in sampler.keep if name in sample}
    return shown


def _patches(lesion_masks: Sequence[np.ndarray], sampler: transforms.ToSample) -> np.ndarray:
    """Which patches of each X-ray show a lesion (b, n)."""
    grid = patches.grid((sampler.image_size,) * 2, sampler.image_patch)
    return np.stack([ranking.lesion_patches(mask, sampler.crop, grid) for mask in lesion_masks])


def embed_reports(embedder: Embedder, variables: PyTree, words: Any, texts: Sequence[str], length: int) -> np.ndarray:
    """Texts, by the tokenizer `words` at most `length` tokens each, as unit vectors of the joint space (n, e)."""
    text, mask = tokenizer.encode(words, list(texts), length)
    rows = []
    for start in range(0, len(texts), embedder.rows):
        part = np.arange(start, start + embedder.rows).clip(max=len(texts) - 1)
        rows.append(embedder(embedder.report, variables, text[part], mask[part]))
    return np.concatenate(rows)[: len(texts)]


def embed_prompts(
    embedder: Embedder, variables: PyTree, words: Any, contract: Mapping[str, Any], length: int
) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Embedded positive and negative prompts of each label of a set; None without labels, or if one has no prompts.

    Of `contract` the entries "labels" and "prompts" are used. The negative prompts of a label may be none, (0, e).
    """
    pairs = [contract["prompts"].get(label) for label in contract["labels"]]
    if not pairs or not all(pairs):
        return None
    lists = [pair[side] for side in ("positive", "negative") for pair in pairs]
    z = embed_reports(embedder, variables, words, [*itertools.chain(*lists)], length)
    parts = np.split(z, np.cumsum([len(texts) for texts in lists])[:-1])
    return parts[: len(pairs)], parts[len(pairs) :]
