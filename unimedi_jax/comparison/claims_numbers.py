"""The numbers that the claims are about, from the files of scores alone: values over seeds with their resamples."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.phantom.findings import LABELS
from unimedi_jax.comparison.claims_scores import Scores
from unimedi_jax.metrics import paired, vectors
from unimedi_jax.metrics.paired import Counts, Estimate

NAN = float("nan")
CLOUDS = ("xray", "ct", "both")  # groups of patients that are drawn apart from each other


class Place(NamedTuple):
    """A model: what it is, the set that it was trained on, and what it had as much of as UniMedI."""

    model: str
    data: str
    budget: str


def _auc(name: str, finding: int | None = None) -> Callable[[Scores, Mapping[str, Counts]], Estimate]:
    """AUC of `name`, such as "ct/probe": the mean over findings, or that of one."""
    modality = name.partition("/")[0]
    columns = slice(None) if finding is None else slice(finding, finding + 1)

    def measure(scores: Scores, counts: Mapping[str, Counts]) -> Estimate:
        return paired.auc(scores[name][:, columns], scores[f"{modality}/labels"][:, columns], counts[modality])

    return measure


def _mean(name: str, cloud: str) -> Callable[[Scores, Mapping[str, Counts]], Estimate]:
    """Mean over patients of one number each."""
    return lambda scores, counts: paired.mean(scores[name], counts[cloud])


def _average(*measures: Callable) -> Callable[[Scores, Mapping[str, Counts]], Estimate]:
    return lambda scores, counts: paired.average([measure(scores, counts) for measure in measures])


def _ratio(scores: Scores, counts: Mapping[str, Counts]) -> Estimate:
    """P@5 of findings from X-ray to CT, over that within a modality."""
    within = _average(_mean("shared/xray/within", "xray"), _mean("shared/ct/within", "ct"))
    return paired.mean(scores["shared/xray/across"], counts["xray"]) / within(scores, counts)


def _modalities(name: str) -> Callable[[Scores, Mapping[str, Counts]], Estimate]:
    """Mean over X-rays and CTs, each with half of the weight."""
    return _average(_mean(f"shared/xray/{name}", "xray"), _mean(f"shared/ct/{name}", "ct"))


# Name -> its measure of one run.
MEASURES: dict[str, Callable[[Scores, Mapping[str, Counts]], Estimate]] = {
    "X-ray zero-shot AUC": _auc("xray/zeroshot"),
    "CT zero-shot AUC": _auc("ct/zeroshot"),
    "X-ray probe AUC": _auc("xray/probe"),
    "CT probe AUC": _auc("ct/probe"),
    "X-ray prompts on reports": _auc("xray/prompts"),
    "CT prompts on reports": _auc("ct/prompts"),
    **{f"X-ray {finding} probe": _auc("xray/probe", i) for i, finding in enumerate(LABELS)},
    **{f"CT {finding} probe": _auc("ct/probe", i) for i, finding in enumerate(LABELS)},
    "same-patient R@5": _mean("shared/own_hit", "both"),
    "P@5 across": _mean("shared/xray/across", "xray"),
    "P@5 across over within": _ratio,
    "modality classification accuracy on CLS": _modalities("correct_cls"),
    "modality classification accuracy on z": _modalities("correct_z"),
    "separation of findings on z": _modalities("separation_z"),
    "separation of findings on CLS": _modalities("separation_cls"),
    "nodule slice hit rate": _mean("ct/slices/hit", "ct"),
    "nodule slice hit rate, best fixed layers": _mean("ct/slices/fixed", "ct"),
    "nodule slice hit rate, random": _mean("ct/slices/random", "ct"),
}
# Means of other measures.
MEANS = {
    "CT AUC": ("CT zero-shot AUC", "CT probe AUC"),
    "AUC": ("X-ray zero-shot AUC", "X-ray probe AUC", "CT zero-shot AUC", "CT probe AUC"),
}
NAMES = (*MEANS, *MEASURES)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """All scores, by place and training seed in one order, and how patients and seeds are drawn."""

    scores: Mapping[Place, Sequence[Scores]]
    resamples: int
    seed: int = 0

    @functools.cached_property
    def counts(self) -> dict[str, Counts]:
        """The patients of every resample, by cloud: the same for all models."""
        sizes: dict[str, set[int]] = {}
        for scores in (scores for runs in self.scores.values() for scores in runs):
            for cloud, name in (("xray", "xray/labels"), ("ct", "ct/labels"), ("both", "shared/own_hit")):
                if name in scores:
                    sizes.setdefault(cloud, set()).add(len(scores[name]))
        if twice := [cloud for cloud, lengths in sizes.items() if len(lengths) > 1]:
            raise ValueError(f"scores of different patients: {twice}")
        draws = {cloud: {"resamples": self.resamples, "seed": [self.seed, i]} for i, cloud in enumerate(CLOUDS)}
        return {cloud: paired.patients(lengths.pop(), **draws[cloud]) for cloud, lengths in sizes.items()}

    def estimate(self, name: str, place: Place) -> Estimate:
        """A number, one of NAMES, of a model over its seeds; NaN where it was not trained, or has no such number."""
        if name in MEANS:
            return paired.average([self.estimate(part, place) for part in MEANS[name]])
        if (name, place) not in self._estimates:
            self._estimates[name, place] = self._over_seeds(name, place)
        return self._estimates[name, place]

    @functools.cached_property
    def _estimates(self) -> dict[tuple[str, Place], Estimate]:
        """What has been computed already: each number stands in several claims."""
        return {}

    def _over_seeds(self, name: str, place: Place) -> Estimate:
        try:
            each = [MEASURES[name](scores, self.counts) for scores in self.scores.get(place, ())]
        except KeyError:  # a model of one modality has no space to share
            each = []
        if not each:
            return Estimate(NAN, np.full(self.resamples, NAN))
        return paired.over_seeds(each, seed=self.seed)

    def mean(self, name: str, place: Place) -> float:
        """Mean over the seeds of an array of the files, NaN where they do not have it."""
        values = [scores[name].mean() for scores in self.scores.get(place, ()) if name in scores]
        return vectors.nan_mean(np.array(values)) if values else NAN
