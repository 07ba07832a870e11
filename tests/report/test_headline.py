"""The three sentences of a run and their flags: every claim follows from the numbers, and turns with them."""

import pathlib

import pytest

from unimedi_jax.input.places import Place
from unimedi_jax.input.records import RecordSet
from unimedi_jax.report import headline


def places(name: str = "phantom") -> list[Place]:
    record_set = RecordSet(name, pathlib.Path(name), {"labels": ["lung nodule", "edema"]})
    return [Place(modality, modality, record_set) for modality in ("xray", "ct")]


def line(**changes: float | None) -> dict:
    """A run in which everything was learnt; `changes` by the end of a name, with "_" for "/"; None takes one away."""
    values = {"step": 3}
    for place in ("xray", "ct"):
        for task, auc in (("zeroshot", 0.81), ("probe", 0.92)):
            key = f"{place}/{task}/macro10"
            values |= {f"test/{key}": auc, f"test/{key}/low": auc - 0.05, f"untrained/{key}": 0.52}
        start = f"test/{place}/retrieval"
        values |= {f"{start}/i2t_r5": 0.25, f"{start}/i2t_r5/low": 0.2, f"{start}/chance_r5": 0.05}
        values |= {f"{start}/pairs": 100.0, f"test/{place}/zeroshot/edema": 0.7}
        values |= {f"test/{place}/zeroshot/edema/{side}": 30.0 for side in ("positives", "negatives")}
        values[f"test/gap/{place}_{place}_report/accuracy"] = 0.99
    slices = {"hit_rate": 0.8, "hit_rate/low": 0.7, "random_rate": 0.4, "fixed_rate": 0.6, "cases": 40.0}
    values |= {f"test/ct/slices/lung nodule/{name}": value for name, value in slices.items()}
    values |= {"test/ct/slices/any/layer_share": 0.2, "test/gap/xray_ct/accuracy": 0.55}
    values |= {f"test/{name}" if "/" in name else name: value for name, value in changes.items()}
    return {name: value for name, value in values.items() if value is not None}


def of(changes: dict | None = None, name: str = "phantom") -> headline.Headline:
    return headline.of([line(**(changes or {}))], places(name))


def test_a_run_that_learnt_everything_has_three_sentences_and_no_flag() -> None:
    sentences, flags = of()
    assert sentences == (
        "The network recognises findings: mean AUC (0.5 is chance) of 0.81 by prompts alone (untrained 0.52) and 0.92 "
        "by a linear probe (untrained 0.52) on X-rays; 0.81 by prompts alone (untrained 0.52) and 0.92 by a linear "
        "probe (untrained 0.52) on CTs.",
        "It retrieves reports: 25% of the X-rays have theirs among the first 5 of 100 (5.0 times chance), 25% of the "
        "CTs have theirs among the first 5 of 100 (5.0 times chance); it chooses slices that show the lesion: the "
        "chosen slices hit the nodules in 80% of the CTs (random choice 40%, the best fixed layers 60%).",
        "It does not show how far another seed would differ (this is one run), nor anything about real patients (these "
        "are synthetic).",
    )
    assert flags == ()


def test_without_labels_nothing_is_said_of_findings() -> None:
    metrics = {name: value for name, value in line().items() if "retrieval" in name}
    record_set = RecordSet("mine", pathlib.Path("mine"), {"labels": []})
    sentences, flags = headline.of([metrics], [Place("xray", "xray", record_set)])
    assert sentences == (
        "The network retrieves reports: 25% of the X-rays have theirs among the first 5 of 100 (5.0 times chance).",
        "It does not show whether findings are recognised (the records have no labels), nor how far another seed would "
        "differ (this is one run).",
    )
    assert flags == ()


def test_real_patients_are_no_synthetic_ones() -> None:
    assert "synthetic" not in of(name="mine").sentences[2]


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"xray/zeroshot/macro10": 0.5}, "X-ray, zero-shot AUC 0.50 is at or below chance (0.50)."),
        (
            {"ct/probe/macro10/low": 0.49},
            "CT, linear probe AUC 0.92: its interval begins at 0.49 and includes chance (0.50).",
        ),
        ({"xray/probe/macro10": 0.52}, "X-ray, linear probe AUC 0.52 does not exceed the untrained network (0.52)."),
        (
            {"xray/zeroshot/macro10": float("nan")},
            "X-ray, zero-shot AUC: no finding has 10 positive and 10 negative cases, so no AUC says much.",
        ),
        ({"ct/retrieval/i2t_r5": 0.04}, "CT, report retrieval R@5 0.04 is at or below chance (0.05)."),
        ({"ct/retrieval/pairs": 9.0}, "CT, report retrieval R@5: 9 pairs say little."),
        (
            {"xray/retrieval/chance_r5": 0.6},
            "X-ray, report retrieval R@5: chance alone gives 0.60, as so many reports are alike or so few are there.",
        ),
        (
            {"ct/slices/lung nodule/fixed_rate": 0.9},
            "CT, slice hit rate of nodules 0.80 does not exceed the best fixed layers (0.90).",
        ),
        (
            {"ct/slices/lung nodule/random_rate": 0.85},
            "CT, slice hit rate of nodules 0.80 is at or below chance (0.85).",
        ),
        ({"ct/slices/lung nodule/cases": 3.0}, "CT, slice hit rate of nodules: 3 CTs say little."),
        ({"xray/zeroshot/edema": 0.41}, "X-ray, zero-shot AUC at or below chance (0.50): edema 0.41."),
        (
            {"ct/slices/any/layer_share": 0.84},
            "CT: 84% of the slice scores' variance is the layer's, so the choice of slices is mostly position and not "
            "what the CT shows.",
        ),
    ],
)
def test_each_number_that_shows_nothing_is_flagged(changes: dict, flag: str) -> None:
    if changes.get("xray/probe/macro10"):
        changes |= {"xray/probe/macro10/low": 0.51}
    assert of(changes).flags == (flag,)


def test_few_cases_of_a_finding_are_no_flag() -> None:
    assert of({"xray/zeroshot/edema": 0.41, "xray/zeroshot/edema/positives": 9.0}).flags == ()


def test_the_claim_turns_with_the_numbers() -> None:
    tasks = [f"{place}/{task}/macro10" for place in ("xray", "ct") for task in ("zeroshot", "probe")]
    one = of({tasks[0]: 0.4})
    assert one.sentences[0].startswith("The network recognises findings in part: mean AUC")
    none = of(dict.fromkeys(tasks, 0.4))
    assert none.sentences[0].startswith("The network does not recognise findings: mean AUC")
    assert len(none.flags) == 4
    unknown = of(dict.fromkeys(tasks, float("nan")))
    assert unknown.sentences[0] == "The network does not recognise findings, as far as so few cases can show."
    chance = of(
        {f"{place}/retrieval/i2t_r5": 0.05 for place in ("xray", "ct")} | {"ct/slices/lung nodule/hit_rate": 0.4}
    )
    assert chance.sentences[1].startswith("It does not retrieve reports: 5% of")
    assert "; it does not choose slices by the lesion: " in chance.sentences[1]


def test_modalities_that_lie_apart_are_what_is_not_shown() -> None:
    sentences = of({"gap/xray_ct_cls/accuracy": 0.98}).sentences
    assert sentences[2].startswith(
        "It does not show that X-rays and CTs lie together (a linear classifier separates them: accuracy 0.98 on the "
        "encoder's CLS, 0.50 where they are merged), nor how far"
    )


def test_any_lesion_where_no_nodule_was_marked() -> None:
    changes = {f"ct/slices/lung nodule/{name}": None for name in ("hit_rate", "cases")}
    changes |= {"ct/slices/any/hit_rate": 0.75, "ct/slices/any/random_rate": 0.5, "ct/slices/any/cases": 30.0}
    assert "hit the lesions in 75% of the CTs (random choice 50%)" in of(changes).sentences[1]


def test_a_run_without_test_patients_says_so() -> None:
    assert headline.of([{"step": 1, "loss": 2.0}], places()) == headline.Headline((headline.NOTHING,), ())
    assert headline.of([], []) == headline.Headline((headline.NOTHING,), ())
