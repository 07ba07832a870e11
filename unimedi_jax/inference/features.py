"""Embeds the records of a split: through the model to arrays on the host. All evaluations of embeddings start here."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data.errors import UserError
from data.reports import tokenizer
from unimedi_jax import patches, sharding
from unimedi_jax.input import pipeline, records, transforms
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.metrics import linear_probe, pooling, ranking, slices, vectors
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
    buckets: tuple[int, ...] = ()  # lengths of reports, growing

    @classmethod
    def of(
        cls, model: towers.UniMedI, mesh: Mesh, *, rows: int, ct_slices: bool, buckets: Sequence[int] = ()
    ) -> "Embedder":
        """`rows` a batch and device; `ct_slices`: CTs with their chosen slices, or by their volume alone.

        A report is cut to the first of the lengths `buckets` that holds it.
        """

        def method(name: str, *static: Any) -> Callable[..., Any]:
            return jax.jit(lambda variables, *x: model.apply(variables, *x, *static, method=name))

        images = method("xray_features"), method("ct_features", ct_slices)
        return cls(*images, method("embed_report"), rows * mesh.size, mesh, ct_slices, tuple(sorted(buckets)))

    def __call__(self, function: Callable[..., Any], variables: PyTree, *arrays: Any) -> Any:
        """One batch on the devices, the result as host arrays (on every host the whole of it)."""
        placed = sharding.put_same(arrays, self.mesh)
        return multihost_utils.process_allgather(function(variables, *placed), tiled=True)

    def image(
        self, modality: str, variables: PyTree, tokens: np.ndarray, lateral: np.ndarray | None = None
    ) -> towers.Features:
        """`Features` of one batch of X-rays or CTs, tokens (b, n, v), or (b, w, n, v) of CTs in w windows.

        `lateral` (b,) says which X-rays are lateral, to a network that distinguishes them. Of several windows `cls` and
        `z` are means, of unit length for `z`; the rest is that of the first, the central.

        Raises:
            UserError: the weights have diverged, so that what they compute is not finite.
        """
        function = self.xray if modality == "xray" else self.ct
        windows = [tokens] if tokens.ndim == 3 else tokens.swapaxes(0, 1)
        parts = [self(function, variables, window, *(() if lateral is None else (lateral,))) for window in windows]
        if not all(np.isfinite(part.cls).all() for part in parts):
            raise UserError(
                f"the network's output for {NAMES[modality]} is not finite: its weights have diverged; take an earlier "
                "checkpoint, or train with a lower config.optim.peak_lr"
            )
        if tokens.ndim == 3:
            return parts[0]
        cls, z = (np.mean([getattr(part, name) for part in parts], axis=0) for name in ("cls", "z"))
        return parts[0]._replace(cls=cls, z=z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-8))

    def reports(self, variables: PyTree, text: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Unit vectors (n, e) of n tokenised reports (n, l), each cut to the first of the buckets that holds it.

        A report's vector depends on the report alone, not on those that are embedded beside it: not even by rounding.
        """
        used = mask.shape[1] - np.argmax(mask[:, ::-1] != 0, axis=1)
        sizes = np.array([*(size for size in self.buckets if size < mask.shape[1]), mask.shape[1]])
        lengths = sizes[np.searchsorted(sizes, used)]
        vectors: list[np.ndarray | None] = [None] * len(text)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for start in range(0, len(rows), self.rows):
                part = rows[np.arange(start, start + self.rows).clip(max=len(rows) - 1)]  # the last one is filled up
                embedded = self(self.report, variables, text[part, :length], mask[part, :length])
                for row, vector in zip(part, embedded, strict=True):
                    vectors[row] = vector
        return np.stack(vectors)


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
    studies: tuple[tuple[str, str], ...] = ()  # what the pictures of a study share; of sets that name studies
    patients: tuple[str, ...] | None = None  # None if not asked for

    @property
    def by_study(self) -> "EmbeddedSplit | None":
        """The mean picture of every study, under its report; None where none has several pictures."""
        group, first = pooling.groups(self.studies)
        if len(first) == len(self.studies):
            return None
        return EmbeddedSplit(
            cls=pooling.mean(self.cls, group),
            z=pooling.mean(vectors.unit_rows(self.z), group),
            z_report=None if self.z_report is None else self.z_report[first],
            labels=pooling.present(self.labels, group),
            reports=tuple(self.reports[row] for row in first),
            names=self.names,
            patients=None if self.patients is None else tuple(self.patients[row] for row in first),
        )

    @property
    def labelled(self) -> linear_probe.Labelled:
        """CLS with its labels and patients."""
        return linear_probe.Labelled(self.cls, self.labels, self.patients)


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
    parts: dict[str, list[Any]] = {}
    count = len(dataset.contract["labels"])
    for batch in pipeline.evaluation(dataset, sampler, split, embedder.rows, limit=limit):
        output = embedder.image(sampler.modality, variables, batch["tokens"], batch.get("lateral"))
        real = int(batch["mask"].sum())
        gathered = {"cls": output.cls, "z": output.z, "labels": batch["labels"]}
        gathered["reports"] = [records.text(report) for report in batch["report"]]
        if "patient" in batch:
            gathered["patients"] = [records.text(name) for name in batch["patient"]]
        if "study" in batch:
            names = zip(batch["patient"], batch["report"], batch["study"], strict=True)
            fields = ({"patient": x, "report": y, "study": z} for x, y, z in names)
            gathered["studies"] = [records.study_key(one) for one in fields]
        if not images_alone:
            gathered |= {"text": batch["text"], "text_mask": batch["text_mask"]}
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
    if not images_alone:
        parts["z_report"] = embedder.reports(variables, *(np.stack(parts.pop(name)) for name in ("text", "text_mask")))
    texts = {name: tuple(parts.pop(name)) for name in ("reports", "studies", "patients") if name in parts}
    dtypes = {"lesions": bool}
    arrays = {name: np.stack(values).astype(dtypes.get(name, np.float32)) for name, values in parts.items()}
    return EmbeddedSplit(**texts, names=tuple(dataset.contract["labels"]), **{"z_report": None, **arrays})


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
    source = dataset.source(sampler.modality, split)
    shown: dict[int, dict[str, Any]] = {}
    for start in range(0, len(rows), embedder.rows):
        part = rows[start : start + embedder.rows]
        samples = [sampler(source[row]) for row in part]
        padding = samples[-1:] * (embedder.rows - len(part))
        names = [name for name in ("tokens", "lateral") if name in samples[0]]
        inputs = [np.stack([sample[name] for sample in [*samples, *padding]]) for name in names]
        output = embedder.image(sampler.modality, variables, *inputs)
        for index, (row, sample) in enumerate(zip(part, samples, strict=True)):
            fields = {name: value[index] for name, value in output._asdict().items() if value is not None}
            shown[row] = fields | {name: sample[name] for name in sampler.keep if name in sample}
    return shown


def _patches(lesion_masks: Sequence[np.ndarray], sampler: transforms.ToSample) -> np.ndarray:
    """Which patches of each X-ray show a lesion (b, n)."""
    grid = patches.grid((sampler.image_size,) * 2, sampler.image_patch)
    return np.stack([ranking.lesion_patches(mask, sampler.cropped(len(mask)), grid) for mask in lesion_masks])


def embed_reports(embedder: Embedder, variables: PyTree, words: Any, texts: Sequence[str], length: int) -> np.ndarray:
    """Texts, by the tokenizer `words` at most `length` tokens each, as unit vectors of the joint space (n, e)."""
    return embedder.reports(variables, *tokenizer.encode(words, list(texts), length))


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
