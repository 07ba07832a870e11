"""What a run shows and what it does not, in three sentences, and the numbers that show nothing: from its metrics alone.

A number shows something where it exceeds all that it is compared with: chance by the lower end of its 95 % interval
(by itself where it has none), the untrained network and fixed slices by itself. The names of metrics: `tables`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unimedi_jax.input.places import Place
from unimedi_jax.metrics import auroc, label_keys
from unimedi_jax.report import tables
from unimedi_jax.report.tables import Line

AUCS = {"zeroshot": "zero-shot", "probe": "linear probe", "supervised": "trained classifier"}
FEWEST = auroc.FEWEST  # cases behind a recall or a hit rate
MERGED_BELOW = 0.6  # accuracy of a linear classifier of the modality, of which 0.5 is a merged space
POSITION = 0.5  # share of the slice scores' variance from which on the choice is mostly position
TOO_EASY = 0.5  # chance from which on a recall says nothing
SYNTHETIC = "phantom"  # the built-in set
NOTHING = "Nothing was measured on held-out patients: the page shows the course of the training alone."


class Headline(NamedTuple):
    """Sentences under a page's title, and warnings about single numbers."""

    sentences: tuple[str, ...]
    flags: tuple[str, ...]


class Compared(NamedTuple):
    """A number of the test patients and what it has to exceed."""

    name: str  # "X-ray, zero-shot AUC"
    value: float
    low: float  # end of its interval; NaN: it has none
    chance: float
    others: Mapping[str, float]  # what else it has to exceed, by name; empty where nothing else was measured
    few: str = ""  # why it says nothing, whatever it is

    @property
    def shows(self) -> bool:
        """Whether it exceeds chance and everything else."""
        return not self.few and self._bound > self.chance and not self._ahead

    @property
    def flag(self) -> str:
        """What is wrong with it; "" where it shows something."""
        number = f"{self.name} {self.value:.2f}"
        if self.few:
            return f"{self.name}: {self.few}."
        if self.value <= self.chance:
            return f"{number} is at or below chance ({self.chance:.2f})."
        if self._bound <= self.chance:
            return f"{number}: its interval begins at {self.low:.2f} and includes chance ({self.chance:.2f})."
        return f"{number} does not exceed {' or '.join(self._ahead)}." if self._ahead else ""

    @property
    def _bound(self) -> float:
        return self.value if math.isnan(self.low) else min(self.low, self.value)

    @property
    def _ahead(self) -> list[str]:
        return [f"{name} ({value:.2f})" for name, value in self.others.items() if self.value <= value]


def of(metrics: Sequence[Line], places: Sequence[Place]) -> Headline:
    """The headline of a run from the lines of metrics.jsonl, as `tables.result_tables` reads them."""
    aucs = [(place, of_place) for place in places if (of_place := _aucs(place, metrics))]
    recalls = [(place, one) for place in places if (one := _recall(place, metrics))]
    hits = [(place, one) for place in places if (one := _hits(place, metrics))]
    claims = filter(None, (_findings(aucs), _reports_and_slices(recalls, hits, metrics)))
    sentences = [f"{subject} {claim}." for subject, claim in zip(("The network", "It"), claims, strict=False)]
    if not sentences:
        return Headline((NOTHING,), ())
    compared = [each for _, of_place in aucs for each in of_place]
    compared += [one for _, one in recalls] + [one for _, one in hits]
    flags = [each.flag for each in compared] + [_low_findings(place, metrics) for place in places]
    flags += [_position(place, metrics) for place in places]
    sentences.append(_not_shown(metrics, places))
    return Headline(tuple(filter(None, sentences)), tuple(filter(None, flags)))


def _value(metrics: Sequence[Line], key: str) -> float:
    """A number of the metrics, NaN where there is none."""
    value = tables.latest(metrics, key)
    return math.nan if value is None else value


def _aucs(place: Place, metrics: Sequence[Line]) -> list[Compared]:
    """The mean AUCs of a place over the findings with enough cases."""
    compared = []
    for task, name in AUCS.items():
        key = f"{place.name}/{task}/macro10"
        if tables.latest(metrics, f"test/{key}") is None:
            continue
        value, low, before = (_value(metrics, name) for name in (f"test/{key}", f"test/{key}/low", f"untrained/{key}"))
        others = {} if math.isnan(before) else {"the untrained network": before}
        few = f"no finding has {FEWEST} positive and {FEWEST} negative cases, so no AUC says much"
        few = few if math.isnan(value) else ""
        compared.append(Compared(f"{place.title}, {name} AUC", value, low, auroc.CHANCE, others, few))
    return compared


def _recall(place: Place, metrics: Sequence[Line]) -> Compared | None:
    """Recall at 5 from image to report."""
    start = f"test/{place.name}/retrieval"
    names = ("i2t_r5", "i2t_r5/low", "chance_r5", "pairs")
    value, low, chance, pairs = (_value(metrics, f"{start}/{name}") for name in names)
    if math.isnan(value) or math.isnan(chance):
        return None
    few = f"{pairs:.0f} pairs say little" if pairs < FEWEST else ""
    if chance >= TOO_EASY:
        few = f"chance alone gives {chance:.2f}, as so many reports are alike or so few are there"
    return Compared(f"{place.title}, report retrieval R@5", value, low, chance, {}, few)


def _hits(place: Place, metrics: Sequence[Line]) -> Compared | None:
    """Hit rate of the chosen slices: of nodules where they are marked, else of any lesion."""
    keys = dict(zip(place.labels, label_keys.of(place.labels), strict=True))
    nodules = [key for label, key in keys.items() if "nodule" in label.lower()]
    for key, name in [*((key, "nodules") for key in nodules), ("any", "lesions")]:
        start = f"test/{place.name}/slices/{key}"
        names = ("hit_rate", "hit_rate/low", "random_rate", "fixed_rate", "cases")
        value, low, random, fixed, cases = (_value(metrics, f"{start}/{end}") for end in names)
        if not math.isnan(value):
            others = {} if math.isnan(fixed) else {"the best fixed layers": fixed}
            few = f"{cases:.0f} CTs say little" if cases < FEWEST else ""
            return Compared(f"{place.title}, slice hit rate of {name}", value, low, random, others, few)
    return None


def _claim(compared: Sequence[Compared], verb: str, infinitive: str) -> str:
    """The verdict on some numbers: what a sentence begins with."""
    shown = sum(each.shows for each in compared)
    if not shown:
        return f"does not {infinitive}"
    return verb if shown == len(compared) else f"{verb} in part"


def _findings(aucs: Sequence[tuple[Place, Sequence[Compared]]]) -> str:
    parts = []
    for place, of_place in aucs:
        texts = []
        for each in of_place:
            before = "".join(f" (untrained {value:.2f})" for value in each.others.values())
            task = each.name.removeprefix(f"{place.title}, ").removesuffix(" AUC")
            if not math.isnan(each.value):
                texts.append(f"{each.value:.2f} by {_article(task)}{before}")
        if texts:
            parts.append(f"{' and '.join(texts)} on {place.plural}")
    if not aucs:
        return ""
    claim = _claim([each for _, of_place in aucs for each in of_place], "recognises findings", "recognise findings")
    if not parts:
        return f"{claim}, as far as so few cases can show"
    return f"{claim}: mean AUC (0.5 is chance) of {'; '.join(parts)}"


def _article(task: str) -> str:
    return "prompts alone" if task == AUCS["zeroshot"] else f"a {task}"


def _reports_and_slices(
    recalls: Sequence[tuple[Place, Compared]], hits: Sequence[tuple[Place, Compared]], metrics: Sequence[Line]
) -> str:
    clauses = []
    if recalls:
        claim = _claim([one for _, one in recalls], "retrieves reports", "retrieve reports")
        texts = [
            f"{one.value:.0%} of the {place.plural} have theirs among the first 5 of "
            f"{_value(metrics, f'test/{place.name}/retrieval/pairs'):.0f} ({_times(one)})"
            for place, one in recalls
        ]
        clauses.append(f"{claim}: {', '.join(texts)}")
    if hits:
        claim = _claim([one for _, one in hits], "chooses slices that show the lesion", "choose slices by the lesion")
        texts = []
        for place, one in hits:
            fixed = "".join(f", {name} {value:.0%}" for name, value in one.others.items())
            lesions = one.name.rpartition(" ")[2]
            blind = f"random choice {one.chance:.0%}{fixed}"
            texts.append(f"the chosen slices hit the {lesions} in {one.value:.0%} of the {place.plural} ({blind})")
        clauses.append(f"{claim}: {', '.join(texts)}")
    return "; it ".join(clauses)


def _times(one: Compared) -> str:
    return f"{one.value / one.chance:.1f} times chance" if one.chance > 0 else "chance 0"


def _not_shown(metrics: Sequence[Line], places: Sequence[Place]) -> str:
    """The sentence about what the numbers leave open, whatever they are."""
    open_questions = [gap] if (gap := _gap(metrics, places)) else []
    if not any(place.labels for place in places):
        open_questions.append("whether findings are recognised (the records have no labels)")
    open_questions.append("how far another seed would differ (this is one run)")
    if places and all(place.dataset.name == SYNTHETIC for place in places):
        open_questions.append("anything about real patients (these are synthetic)")
    return f"It does not show {', nor '.join(open_questions)}."


def _gap(metrics: Sequence[Line], places: Sequence[Place]) -> str:
    """What is still between X-rays and CTs; "" where there is one modality, or the two have merged."""
    pairs = [(a, b) for a in places for b in places if (a.modality, b.modality) == ("xray", "ct")]
    spaces = {"": "joint space", "_cls": "encoder's CLS"}
    clouds = [(f"{a.name}_{b.name}{end}", name) for a, b in pairs for end, name in spaces.items()]
    measured = [(_value(metrics, f"test/gap/{cloud}/accuracy"), name) for cloud, name in clouds]
    apart = [(value, name) for value, name in measured if value >= MERGED_BELOW]
    if not apart:
        return ""
    accuracy, name = max(apart)
    rates = f"accuracy {accuracy:.2f} on the {name}, 0.50 where they are merged"
    return f"that X-rays and CTs lie together (a linear classifier separates them: {rates})"


def _low_findings(place: Place, metrics: Sequence[Line]) -> str:
    """The findings with enough cases whose zero-shot AUC is at or below chance."""
    low = []
    for label, key in zip(place.labels, label_keys.of(place.labels), strict=True):
        start = f"test/{place.name}/zeroshot/{key}"
        value, *counts = (_value(metrics, name) for name in (start, f"{start}/positives", f"{start}/negatives"))
        if value <= auroc.CHANCE and min(counts) >= FEWEST:
            low.append(f"{label.replace('_', ' ')} {value:.2f}")
    return f"{place.title}, zero-shot AUC at or below chance (0.50): {', '.join(low)}." if low else ""


def _position(place: Place, metrics: Sequence[Line]) -> str:
    """A choice of slices that hardly looks at the CT."""
    share = _value(metrics, f"test/{place.name}/slices/any/layer_share")
    mostly = "the choice of slices is mostly position and not what the CT shows"
    return (
        f"{place.title}: {share:.0%} of the slice scores' variance is the layer's, so {mostly}."
        if share >= POSITION
        else ""
    )
