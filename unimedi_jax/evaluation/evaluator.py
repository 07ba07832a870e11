"""Everything that embeddings of held-out patients allow to measure, as one flat dict of scalars."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.errors import UserError
from data.reports.prompts import Pair
from unimedi_jax.evaluation import examples
from unimedi_jax.inference import features
from unimedi_jax.input import transforms
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.input.places import Place
from unimedi_jax.metrics import (
    auroc,
    classification,
    findings,
    gap,
    label_keys,
    linear_probe,
    retrieval,
    slices,
    vectors,
    zeroshot,
)
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
RESAMPLES = 1000  # of the bootstrap intervals in final tables
SPACES = {"": "z", "_cls": "cls"}  # endings of the names of clouds, and the vectors that they are made of


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The evaluations of a run: fixed settings, called with the network's variables."""

    places: Sequence[Place]
    samplers: Mapping[str, transforms.ToSample]  # by modality; places of others are left out
    embedder: features.Embedder
    tokenizer: Any
    length: int
    limit: int
    slices: int  # k of the top-k
    prompts: Mapping[str, Mapping[str, Pair]]  # by set and label
    score: str  # of zero-shot classification, one of config.pretraining.SCORES
    has_joint_space: bool = True  # whether the network has learnt which report belongs to an image
    has_classifier: bool = False  # whether it was trained on the labels (objectives/supervised.py)

    def measured(self, split: str) -> list[Place]:
        """The places that have records of a split."""
        return [place for place in self.places if place.modality in self.samplers and _size(place, split)]

    def can_measure(self, split: str) -> bool:
        """Whether any place has records of a split."""
        return bool(self.measured(split))

    def unread(self, split: str, embedded: Mapping[str, features.EmbeddedSplit]) -> str:
        """The places of a split that are missing in what a call embedded, in words; empty where none is."""
        left_out = (place for place in self.measured(split) if place.name not in embedded)
        return ", ".join(f"{NAMES[place.modality]} of {place.dataset.name}" for place in left_out)

    def __call__(
        self, variables: PyTree, split: str, *, final: bool = False
    ) -> tuple[dict[str, float], dict[str, features.EmbeddedSplit]]:
        """Scalars under the names of their places (`xray/zeroshot/macro`, ...) and the embeddings that they come from.

        `final` adds the linear probes, which embed the training patients too, and bootstrap intervals. A split without
        records gives nothing. A place whose records cannot be read costs its own numbers and a line of the log.

        Raises:
            UserError: the records of no place can be read.
        """
        embedded: dict[str, features.EmbeddedSplit] = {}
        scalars: dict[str, float] = {}
        failures = []
        for place in self.measured(split):
            try:
                part, values = self._of_place(variables, place, split, final=final)
            except UserError as error:
                if jax.process_count() > 1:
                    raise  # the other hosts, whose copy may be whole, would wait for this one
                failures.append(error)
                LOG.warning("%s of %s left out: %s", NAMES[place.modality], place.dataset.name, error)
                continue
            embedded[place.name] = part
            scalars |= _named(place.name, values)
        if failures and not embedded:
            raise failures[0]
        return scalars | (_named("gap", gaps(embedded)) if embedded else {}), embedded

    def _of_place(
        self, variables: PyTree, place: Place, split: str, *, final: bool
    ) -> tuple[features.EmbeddedSplit, dict[str, float]]:
        alone, resamples = not self.has_joint_space, RESAMPLES if final else 0
        part = self._embed(variables, place, split, images_alone=alone)
        if alone:  # gaps and maps are then those of the representation
            part = dataclasses.replace(part, z=vectors.unit_rows(part.cls).astype(np.float32))
        chooses_slices = part.slice_scores is not None and self.slices > 0
        # For probes, and for the depth layers that a fixed choice would take.
        uses_train = final and (place.labels or chooses_slices)
        train, val = (self._images(variables, place, name) if uses_train else None for name in ("train", "val"))
        scalars: dict[str, float] = {}
        if self.has_joint_space:
            scalars |= self._alignment(variables, place, part, resamples)
        if self.has_classifier and place.labels:
            auc = auroc.per_label(_logits(variables, part), part.labels, resamples=resamples, patients=part.patients)
            scalars |= _named("supervised", auc.scalars(place.labels))
        if train and place.labels:
            # The validation patients choose the strength of the regularisation, where there are any.
            drawn = {"resamples": resamples, "patients": part.patients}
            one_of = classification.exclusive(train.labels)
            auc = linear_probe.auc(train.labelled, part.labelled, val and val.labelled, one_of=one_of, **drawn)
            scalars |= _named("probe", auc.scalars(place.labels))
        if chooses_slices:
            scalars |= _named("slices", self._slice_choice(part, val or train, resamples))
        return part, scalars

    def _embed(self, variables: PyTree, place: Place, split: str, **settings: Any) -> features.EmbeddedSplit:
        sampler = self.samplers[place.modality]
        return features.embed(self.embedder, variables, place.dataset, sampler, split, limit=self.limit, **settings)

    def _images(self, variables: PyTree, place: Place, split: str) -> features.EmbeddedSplit | None:
        """A split without its reports, for the probe; None where there is no such patient."""
        return self._embed(variables, place, split, images_alone=True) if _size(place, split) else None

    def _alignment(
        self, variables: PyTree, place: Place, part: features.EmbeddedSplit, resamples: int
    ) -> dict[str, float]:
        """Retrieval of reports; where the set has prompts, zero-shot classification, and the same of the reports.

        What prompts cannot draw out of the reports themselves they cannot draw out of images that match them.
        """
        drawn = {"resamples": resamples, "patients": part.patients}
        results = _named("retrieval", retrieval.recall(part.z, part.z_report, part.reports, **drawn))
        if prompts := self._prompts(variables, place):
            for name, z in (("zeroshot", part.z), ("prompts", part.z_report)):
                auc = zeroshot.auc(z, *prompts, part.labels, score=self.score, **drawn)
                results |= _named(name, auc.scalars(place.labels))
        return results

    def _prompts(self, variables: PyTree, place: Place) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        """The embedded prompts of the findings of a place; None where it has none."""
        contract = {"labels": place.labels, "prompts": self.prompts[place.dataset.name]}
        return features.embed_prompts(self.embedder, variables, self.tokenizer, contract, self.length)

    def pictured(self, variables: PyTree, place: Place, split: str, part: features.EmbeddedSplit) -> examples.Examples:
        """The best, the median and the worst case of a split that `part` has embedded, for pictures."""
        prompts = self._prompts(variables, place) if self.has_joint_space else None
        scores = zeroshot.scores(part.z, *prompts, self.score) if prompts else None
        picked = examples.Examples(examples.pick(part, scores), examples.pick_queries(part))
        sampler = self.samplers[place.modality]
        shown = features.examples(self.embedder, variables, place.dataset, sampler, split, picked.rows)
        return picked._replace(records=shown)

    def _slice_choice(
        self, part: features.EmbeddedSplit, others: features.EmbeddedSplit | None, resamples: int
    ) -> dict[str, float]:
        """How much of the slice scores is position, and whether the chosen slices show lesions, where those are known.

        `others` are the CTs that choose the fixed layers: of validation, or of training where there are none.
        """
        results = {"any/layer_share": slices.layer_share(part.slice_scores)}
        if part.lesions is None:
            return results
        settings = {"choosing": others.lesions if others else None}
        settings |= {"resamples": resamples, "patients": part.patients}
        names = [*label_keys.of(part.names), "unstated"]
        for name, rate in slices.by_finding(part.slice_scores, part.lesions, self.slices, names, **settings).items():
            results |= _named(name, rate.scalars()) if rate.cases else {}
        return results


def _size(place: Place, split: str) -> int:
    return place.dataset.size(place.modality, split)


def _logits(variables: PyTree, part: features.EmbeddedSplit) -> np.ndarray:
    """What the classifier of a supervised network says of each finding (n, c)."""
    head = variables["params"]["head_labels"]
    return part.cls @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


def gaps(embedded: Mapping[str, features.EmbeddedSplit]) -> dict[str, float]:
    """Gaps between the images of each place and their reports, and those of `image_gaps`."""
    scalars: dict[str, float] = {}
    for place, part in embedded.items():
        if part.z_report is not None:
            scalars |= _named(f"{place}_{place}_report", gap.modality_gap(part.z, part.z_report)._asdict())
    return scalars | image_gaps(embedded)


def image_gaps(embedded: Mapping[str, features.EmbeddedSplit]) -> dict[str, float]:
    """Gap between every place of X-rays and every one of CTs, and how well single findings separate in all of them.

    Each on z and, under names that end in `_cls`, on the encoder's CLS: with `norm_by_modality` the gap of z is
    equalised by construction (`metrics/gap.py`). Findings of several sets are joined by name (`findings.joined`);
    where no set has labels, nothing is said of them.
    """
    parts = list(embedded.values())
    finding = np.concatenate(findings.joined([part.labels for part in parts], [part.names for part in parts]))
    xrays, cts = ([name for name in embedded if name.partition(":")[0] == modality] for modality in ("xray", "ct"))
    scalars: dict[str, float] = {}
    for end, space in SPACES.items():
        clouds = {place: getattr(part, space) for place, part in embedded.items()}
        for xray in xrays:
            for ct in cts:
                scalars |= _named(f"{xray}_{ct}{end}", gap.modality_gap(clouds[xray], clouds[ct])._asdict())
        if any(part.names for part in parts):
            z = np.concatenate([*clouds.values()])
            scalars[f"images{end}/separation"] = gap.class_separation(z, finding)
    return scalars


def _named(prefix: str, scalars: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in scalars.items()}
