"""The four claims with their conditions and gates, and what the numbers make of them.

C1  X-rays help where CTs are scarce           C3  X-rays and CTs share one space
C2  UniMedI gains over plain contrast          C4  the chosen slices follow lesions

A claim holds where its gates are passed, every condition's number is large enough, and the tested ones are above 0:
its p-value is the largest of theirs (all have to be true), adjusted by Holm over the four claims, against 0.025, which
is where a 95 % interval ends.
"""

from collections.abc import Callable
from typing import NamedTuple

from unimedi_jax.comparison.claims_numbers import NAN, Numbers, Place
from unimedi_jax.comparison.claims_plan import CT_ONLY, FLOPS, ONE, STEPS, TWO, UNIMEDI
from unimedi_jax.metrics import paired
from unimedi_jax.metrics.paired import Estimate

LEVEL = 0.025  # one-sided
HEADLINE = (STEPS, FLOPS, STEPS, STEPS)  # the comparison that decides each claim
HOLDS, FAILS, GATE, MISSING = "holds", "fails", "gate not passed", "not measured"
# A gate: its name, the bound, and whether the number has to reach it or to stay below.
PROMPTS, INFORMATION, NODULES, MEMORY = (
    ("prompts on reports, AUC", 0.95, True),
    ("information of L_icl, nats", 2.0, True),
    ("nodule probe, AUC", 0.75, True),
    ("L_vl held out minus train", 0.3, False),
)


class Gate(NamedTuple):
    """A number without which a model says nothing about a claim."""

    name: str
    place: Place
    value: float
    bound: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """NaN passes none."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Condition(NamedTuple):
    """A number that has to be at least `least`; a `tested` one has to be above 0 beyond chance, too."""

    name: str
    estimate: Estimate
    least: float
    tested: bool = True

    @property
    def large_enough(self) -> bool:
        return self.estimate.value >= self.least


class Claim(NamedTuple):
    """A claim with what was measured for it."""

    name: str
    statement: str
    budget: str  # what the models that UniMedI is compared with had as much of
    conditions: tuple[Condition, ...]
    gates: tuple[Gate, ...]
    adjusted: float = NAN  # p-value by Holm

    @property
    def p_value(self) -> float:
        """The largest of the tested conditions."""
        return max(each.estimate.p_value for each in self.conditions if each.tested)

    @property
    def verdict(self) -> str:
        """What is missing comes first, then the gates."""
        if any(each.estimate.value != each.estimate.value for each in self.conditions):
            return MISSING
        if not all(gate.passed for gate in self.gates):
            return GATE
        holds = all(each.large_enough for each in self.conditions) and self.adjusted <= LEVEL
        return HOLDS if holds else FAILS


def judged(numbers: Numbers, *, plenty: str, scarce: str, budgets: tuple[str, ...] = HEADLINE) -> list[Claim]:
    """The four claims of one family; `budgets`: what the models that each compares with UniMedI had as much of."""
    makers = (_scarce_cts, _gain, _one_space, _slices)
    claims = [make(numbers, plenty, scarce, budget) for make, budget in zip(makers, budgets, strict=True)]
    adjusted = paired.holm([claim.p_value for claim in claims])
    return [claim._replace(adjusted=p) for claim, p in zip(claims, adjusted, strict=True)]


def _scarce_cts(numbers: Numbers, plenty: str, scarce: str, budget: str) -> Claim:
    """By plain contrast, where joint training is all that differs."""
    pairs = {data: (Place(ONE, data, budget), Place(CT_ONLY, data, budget)) for data in (scarce, plenty)}
    gain = {data: _difference(numbers, "CT AUC", *pair) for data, pair in pairs.items()}
    conditions = (
        Condition(f"CT AUC of one encoder minus CTs alone, {scarce} CTs", gain[scarce], 0.03),
        Condition(f"CT AUC of one encoder minus CTs alone, {plenty} CTs", gain[plenty], -0.01, tested=False),
    )
    gates = [gate for joint, _ in pairs.values() for gate in _gates(numbers, joint)]
    return Claim("C1", "joint training helps scarce CTs", budget, conditions, tuple(gates))


def _gain(numbers: Numbers, plenty: str, scarce: str, budget: str) -> Claim:
    ours, one = Place(UNIMEDI, plenty, STEPS), Place(ONE, plenty, budget)
    gain = Condition("mean of probe and zero-shot AUC minus one encoder", _difference(numbers, "AUC", ours, one), 0.02)
    gates = (*_gates(numbers, ours), *_gates(numbers, one))
    return Claim("C2", "UniMedI is better than plain contrast", budget, (gain,), gates)


def _one_space(numbers: Numbers, plenty: str, scarce: str, budget: str) -> Claim:
    ours, one, two = Place(UNIMEDI, plenty, STEPS), Place(ONE, plenty, budget), Place(TWO, plenty, budget)

    def gain(measure: str, better: Place, worse: Place) -> Estimate:
        return _difference(numbers, measure, better, worse)

    recall, separation = "same-patient R@5", "separation of findings on z"
    accuracy = "modality classification accuracy on CLS"
    conditions = (
        Condition(f"{recall}, one encoder minus two", gain(recall, one, two), 0.0),
        Condition(f"{recall}, UniMedI minus one encoder", gain(recall, ours, one), 0.0),
        Condition("P@5 across over within", numbers.estimate("P@5 across over within", ours), 0.9, tested=False),
        Condition(f"{accuracy}, two encoders minus one", gain(accuracy, two, one), 0.0),
        Condition(f"{accuracy}, one encoder minus UniMedI", gain(accuracy, one, ours), 0.0),
        Condition(f"{separation}, UniMedI minus one encoder", gain(separation, ours, one), 0.0, tested=False),
    )
    gates = (*_gates(numbers, ours), *_gates(numbers, one))
    return Claim("C3", "X-rays and CTs share one space", budget, conditions, gates)


def _slices(numbers: Numbers, plenty: str, scarce: str, budget: str) -> Claim:
    ours = Place(UNIMEDI, plenty, STEPS)
    hit, fixed, random = (
        numbers.estimate(f"nodule slice hit rate{end}", ours) for end in ("", ", best fixed layers", ", random")
    )
    conditions = (
        Condition("nodule slice hit rate minus best fixed layers", hit - fixed, 0.10),
        Condition("nodule slice hit rate minus random", hit - random, 0.20),
    )
    return Claim("C4", "the chosen slices follow lesions", budget, conditions, _gates(numbers, ours))


def _difference(numbers: Numbers, measure: str, a: Place, b: Place) -> Estimate:
    return numbers.estimate(measure, a) - numbers.estimate(measure, b)


def _gates(numbers: Numbers, place: Place) -> tuple[Gate, ...]:
    """Of a model of both modalities, of which the worse one counts. Information: of UniMedI, as others lack L_icl."""

    def worse(values: Callable[[str], float]) -> float:
        pair = [values(modality) for modality in ("xray", "ct")]
        return NAN if any(value != value for value in pair) else min(pair)

    names = {"xray": "X-ray", "ct": "CT"}
    measured = [
        (PROMPTS, worse(lambda m: numbers.estimate(f"{names[m]} prompts on reports", place).value)),
        (NODULES, worse(lambda m: numbers.estimate(f"{names[m]} nodule probe", place).value)),
        (MEMORY, numbers.mean("loss_heldout", place) - numbers.mean("loss_train", place)),
    ]
    if place.model == UNIMEDI:
        measured.insert(1, (INFORMATION, worse(lambda m: numbers.mean(f"{m}/information", place))))
    return tuple(Gate(name, place, value, bound, reach) for (name, bound, reach), value in measured)
