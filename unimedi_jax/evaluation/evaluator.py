"""Everything that embeddings of held-out patients allow to measure, as one flat dict of scalars."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.reports.prompts import Pair
from unimedi_jax.inference import features
from unimedi_jax.input import records, transforms
from unimedi_jax.metrics import (
    auroc,
    classification,
    gap,
    label_keys,
    linear_probe,
    retrieval,
    slices,
    vectors,
    zeroshot,
)
from unimedi_jax.typing import PyTree

RESAMPLES = 1000  # of the bootstrap intervals in final tables
SPACES = {"": "z", "_cls": "cls"}  # endings of the names of clouds, and the vectors that they are made of


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The evaluations of a run: fixed settings, called with the network's variables."""

    dataset: records.RecordSet
    samplers: Mapping[str, transforms.ToSample]
    embedder: features.Embedder
    tokenizer: Any
    length: int
    limit: int
    slices: int  # k of the top-k
    prompts: Mapping[str, Pair]  # by label
    score: str  # of zero-shot classification, one of config.pretraining.SCORES
    has_joint_space: bool = True  # whether the network has learnt which report belongs to an image
    has_classifier: bool = False  # whether it was trained on the labels (objectives/supervised.py)

    def can_measure(self, split: str) -> bool:
        """Whether the set has records of a split in any modality."""
        return any(self.dataset.size(modality, split) for modality in self.samplers)

    def __call__(
        self, variables: PyTree, split: str, *, final: bool = False, examples: int = 0
    ) -> tuple[dict[str, float], dict[str, features.EmbeddedSplit]]:
        """Scalars without a prefix (`xray/zeroshot/macro`, ...) and the embeddings they come from.

        `final` adds the linear probes, which embed the training patients too, and bootstrap intervals. A split without
        records gives nothing.
        """
        embedded = {}
        for modality in self.samplers:
            if self.dataset.size(modality, split):
                alone = not self.has_joint_space
                part = self._embed(variables, modality, split, examples=examples, images_alone=alone)
                if alone:  # gaps and maps are then those of the representation
                    part = dataclasses.replace(part, z=vectors.unit_rows(part.cls).astype(np.float32))
                embedded[modality] = part
        resamples = RESAMPLES if final else 0
        scalars: dict[str, float] = {}
        for modality, part in embedded.items():
            train, val = (self._images(variables, modality, name) if final else None for name in ("train", "val"))
            if self.has_joint_space:
                scalars |= _named(modality, self._alignment(variables, part, resamples))
            if self.has_classifier:
                auc = auroc.per_label(_logits(variables, part), part.labels, resamples=resamples)
                scalars |= _named(f"{modality}/supervised", auc.scalars(self._labels))
            if train:
                # The validation patients choose the strength of the regularisation, where there are any.
                settings = {"one_of": classification.exclusive(train.labels), "resamples": resamples}
                auc = linear_probe.auc(train.labelled, part.labelled, val and val.labelled, **settings)
                scalars |= _named(f"{modality}/probe", auc.scalars(self._labels))
            if part.slice_scores is not None and self.slices:
                scalars |= _named(f"{modality}/slices", self._slice_choice(part, val or train, resamples))
        return scalars | (_named("gap", _gaps(embedded)) if embedded else {}), embedded

    @property
    def _labels(self) -> list[str]:
        return self.dataset.contract["labels"]

    def _embed(self, variables: PyTree, modality: str, split: str, **settings: Any) -> features.EmbeddedSplit:
        sampler = self.samplers[modality]
        return features.embed(self.embedder, variables, self.dataset, sampler, split, limit=self.limit, **settings)

    def _images(self, variables: PyTree, modality: str, split: str) -> features.EmbeddedSplit | None:
        """A split without its reports, for the probe; None where there is no such patient."""
        if not self.dataset.size(modality, split):
            return None
        return self._embed(variables, modality, split, images_alone=True)

    def _alignment(self, variables: PyTree, part: features.EmbeddedSplit, resamples: int) -> dict[str, float]:
        """Retrieval of reports; where the set has prompts, zero-shot classification, and the same of the reports.

        What prompts cannot draw out of the reports themselves they cannot draw out of images that match them.
        """
        results = _named("retrieval", retrieval.recall(part.z, part.z_report, part.reports, resamples=resamples))
        contract = {"labels": self._labels, "prompts": self.prompts}
        prompts = features.embed_prompts(self.embedder, variables, self.tokenizer, contract, self.length)
        if prompts:
            for name, z in (("zeroshot", part.z), ("prompts", part.z_report)):
                auc = zeroshot.auc(z, *prompts, part.labels, score=self.score, resamples=resamples)
                results |= _named(name, auc.scalars(self._labels))
        return results

    def _slice_choice(
        self, part: features.EmbeddedSplit, others: features.EmbeddedSplit | None, resamples: int
    ) -> dict[str, float]:
        """How much of the slice scores is position, and whether the chosen slices show lesions, where those are known.

        `others` are the CTs that choose the fixed layers: of validation, or of training where there are none.
        """
        results = {"any/layer_share": slices.layer_share(part.slice_scores)}
        if part.lesions is None:
            return results
        settings = {"choosing": others.lesions if others else None, "resamples": resamples}
        names = [*label_keys.of(self._labels), "unstated"]
        for name, rate in slices.by_finding(part.slice_scores, part.lesions, self.slices, names, **settings).items():
            results |= _named(name, rate.scalars()) if rate.cases else {}
        return results


def _logits(variables: PyTree, part: features.EmbeddedSplit) -> np.ndarray:
    """What the classifier of a supervised network says of each finding (n, c)."""
    head = variables["params"]["head_labels"]
    return part.cls @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


def _gaps(embedded: Mapping[str, features.EmbeddedSplit]) -> dict[str, float]:
    """Gaps between images and their reports, and those of `image_gaps`."""
    scalars: dict[str, float] = {}
    for modality, part in embedded.items():
        if part.z_report is not None:
            scalars |= _named(f"{modality}_{modality}_report", gap.modality_gap(part.z, part.z_report)._asdict())
    return scalars | image_gaps(embedded)


def image_gaps(embedded: Mapping[str, features.EmbeddedSplit]) -> dict[str, float]:
    """Gap between X-rays and CTs, and how well single findings separate across modalities.

    Each on z and, under names that end in `_cls`, on the encoder's CLS: with `norm_by_modality` the gap of z is
    equalised by construction (`metrics/gap.py`).
    """
    finding = np.concatenate([single_finding(part.labels) for part in embedded.values()])
    scalars: dict[str, float] = {}
    for end, space in SPACES.items():
        clouds = {modality: getattr(part, space) for modality, part in embedded.items()}
        if {"xray", "ct"} <= clouds.keys():
            scalars |= _named(f"xray_ct{end}", gap.modality_gap(clouds["xray"], clouds["ct"])._asdict())
        scalars[f"images{end}/separation"] = gap.class_separation(np.concatenate([*clouds.values()]), finding)
    return scalars


def single_finding(labels: np.ndarray) -> np.ndarray:
    """Index of the only finding of a row, number of findings for none at all, -1 for several or unknown."""
    if not labels.shape[1]:
        return np.full(len(labels), -1)
    present = np.nansum(labels, axis=1)
    finding = np.where(present == 1, np.nan_to_num(labels).argmax(axis=1), -1)
    finding[present == 0] = labels.shape[1]
    finding[np.isnan(labels).any(axis=1)] = -1
    return finding


def _named(prefix: str, scalars: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in scalars.items()}
