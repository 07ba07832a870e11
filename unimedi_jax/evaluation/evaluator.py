"""Everything that embeddings of held-out patients allow to measure, as one flat dict of scalars."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from unimedi_jax.inference import features
from unimedi_jax.input import records, transforms
from unimedi_jax.metrics import gap, linear_probe, retrieval, slices, vectors, zeroshot
from unimedi_jax.typing import PyTree

RESAMPLES = 1000  # of the bootstrap intervals in final tables


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
    has_joint_space: bool = True  # whether the network has learnt which report belongs to an image

    def __call__(
        self, variables: PyTree, split: str, *, final: bool = False, examples: int = 0
    ) -> tuple[dict[str, float], dict[str, features.EmbeddedSplit]]:
        """Scalars without a prefix (`xray/zeroshot/macro`, ...) and the embeddings they come from.

        `final` adds the linear probes, which embed the training patients too, and bootstrap intervals.
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
            train = self._images(variables, modality, "train") if final else None
            if self.has_joint_space:
                scalars |= _named(modality, self._alignment(variables, part, resamples))
            if train:
                # The validation patients choose the strength of the regularisation, where there are any.
                val = self._images(variables, modality, "val")
                auc = linear_probe.auc(train.labelled, part.labelled, val and val.labelled, resamples=resamples)
                scalars |= _named(f"{modality}/probe", auc.scalars(self._labels))
            if part.lesions is not None and self.slices:
                scalars |= _named(f"{modality}/slices", self._hit_rates(part, train, resamples))
        return scalars | _named("gap", _gaps(embedded)), embedded

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
        """Retrieval of reports, and zero-shot classification where the set has prompts."""
        results = _named("retrieval", retrieval.recall(part.z, part.z_report, part.reports, resamples=resamples))
        prompts = features.embed_prompts(self.embedder, variables, self.tokenizer, self.dataset.contract, self.length)
        if prompts:
            auc = zeroshot.auc(part.z, *prompts, part.labels, resamples=resamples)
            results |= _named("zeroshot", auc.scalars(self._labels))
        return results

    def _hit_rates(
        self, part: features.EmbeddedSplit, train: features.EmbeddedSplit | None, resamples: int
    ) -> dict[str, float]:
        """Of the chosen slices, and with training CTs of the layers that hit most of those."""
        scores, names = part.slice_scores, [*self._labels, "unstated"]
        results: dict[str, float] = {}
        for name, rate in slices.by_finding(scores, part.lesions, self.slices, names, resamples=resamples).items():
            results |= _named(name, rate.scalars()) if rate.cases else {}
        if train:
            fixed = slices.fixed_rates(train.lesions, part.lesions, names, layers=scores.shape[1], k=self.slices)
            results |= {f"{name}/fixed_rate": rate for name, rate in fixed.items()}
        return results


def _gaps(embedded: Mapping[str, features.EmbeddedSplit]) -> dict[str, float]:
    """Gaps between the clouds, and how well single findings separate across modalities."""
    clouds = {modality: part.z for modality, part in embedded.items()}
    clouds |= {f"{modality}_report": part.z_report for modality, part in embedded.items() if part.z_report is not None}
    scalars: dict[str, float] = {}
    for a, b in (("xray", "ct"), ("xray", "xray_report"), ("ct", "ct_report")):
        if a in clouds and b in clouds:
            scalars |= _named(f"{a}_{b}", gap.modality_gap(clouds[a], clouds[b])._asdict())
    z = np.concatenate([part.z for part in embedded.values()])
    finding = np.concatenate([single_finding(part.labels) for part in embedded.values()])
    return scalars | {"images/separation": gap.class_separation(z, finding)}


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
