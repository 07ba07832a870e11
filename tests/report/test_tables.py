"""Result tables: built from metric names alone, and only from those that exist."""

import math
import pathlib

import numpy as np

from unimedi_jax.export import card
from unimedi_jax.input import places
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import auroc, gap, retrieval, slices
from unimedi_jax.report import tables

LABELS = ["nodule", "pleural_effusion"]
MINE = RecordSet("mine", pathlib.Path("mine"), {"labels": LABELS})
PLACES = [places.Place(name, name, MINE) for name in ("xray", "ct")]


def _named(prefix: str, scalars: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in scalars.items()}


def _evaluated(prefix: str) -> dict[str, float]:
    """One of every evaluation's scalars, as the evaluations name them."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (40, 2)).astype(float)
    z = rng.normal(size=(40, 4))
    found = auroc.per_label(rng.normal(size=(40, 2)), targets, resamples=20).scalars(LABELS)
    scalars = {}
    for end in ("", "_cls"):
        scalars |= _named(f"{prefix}/gap/xray_ct{end}", gap.modality_gap(z, z + 1)._asdict())
        scalars[f"{prefix}/gap/images{end}/separation"] = gap.class_separation(z, np.arange(40) % 2)
    for modality in ("xray", "ct"):
        scalars |= _named(f"{prefix}/{modality}/zeroshot", found)
        scalars |= _named(f"{prefix}/{modality}/prompts", found)
        scalars |= _named(f"{prefix}/{modality}/probe", found)
        scalars |= _named(f"{prefix}/{modality}/retrieval", retrieval.recall(z, z, np.arange(40)))
    lesion = rng.random((40, 2, 8)) < 0.2
    scores = rng.random((40, 4))
    scalars[f"{prefix}/ct/slices/any/layer_share"] = slices.layer_share(scores)
    rates = slices.by_finding(scores, lesion, 1, LABELS, choosing=lesion)
    for name, rate in rates.items():
        scalars |= _named(f"{prefix}/ct/slices/{name}", rate.scalars())
    return scalars


def test_every_cell_of_a_whole_run_has_its_number() -> None:
    line = {"step": 1} | _evaluated("test") | _evaluated("untrained")
    found = tables.result_tables([line], PLACES)
    assert len(found) == 6
    cells = [cell for table in found for row in table.rows for cell in row.cells if cell]
    measured = [cell for cell in cells if cell.key in line]
    absent = {cell.key for cell in cells} - set(line)
    # X-rays have no slices, a mean has no cases, a gap has no separation and the other way round.
    assert absent == {
        "test/xray/slices/any/hit_rate",
        *(
            f"test/{place}/zeroshot/{mean}/{sign}"
            for place in ("xray", "ct")
            for mean in ("macro", "macro10")
            for sign in ("positives", "negatives")
        ),
        *(f"test/gap/xray_ct{end}/separation" for end in ("", "_cls")),
        *(f"test/gap/images{end}/{name}" for end in ("", "_cls") for name in ("distance", "accuracy")),
    }
    assert len(measured) == 7 + 2 * (4 * 3 + 2 * 2) + 4 * 5 + (3 * 4 + 1) + 2 * 3
    assert all(cell.beside in line for cell in measured if cell.beside)


def test_only_what_was_measured_is_shown() -> None:
    found = tables.result_tables([{"step": 1, "test/xray/zeroshot/macro10": 0.7}], PLACES)
    assert [table.title for table in found] == ["Held-out patients at a glance", "X-ray: AUC by finding"]
    assert found[0].columns == ("", "Zero-shot AUC")
    assert [row.name for row in found[0].rows] == ["X-ray"]
    assert tables.result_tables([{"step": 1, "loss": 2.0}], PLACES) == []
    assert tables.result_tables([], []) == []


def test_the_last_line_counts() -> None:
    lines = [{"step": 0, "a": 1.0, "b": 5.0}, {"step": 1, "a": 2.0}, {"step": 2, "b": None}]
    assert tables.latest(lines, "a") == 2.0
    assert math.isnan(tables.latest(lines, "b") or 0.0)
    assert tables.latest(lines, "c") is None


def test_both_gaps_and_what_position_alone_hits_have_their_places() -> None:
    line = {"step": 1} | _evaluated("test")
    shown = {table.title: table for table in tables.result_tables([line], PLACES)}
    names = [row.name for row in shown["Modality gap"].rows]
    assert names == [
        "X-ray and CT images",
        "X-ray and CT images, CLS",
        "All images, by finding",
        "All images, by finding, CLS",
    ]
    chosen = shown["CT: do the chosen slices show the lesion?"]
    words = [line.split("  ") for line in tables.text(chosen, [line]).splitlines()]
    assert chosen.columns == ("Lesion", "Hit rate", "Best fixed layers", "Scores due to the layer", "CTs")
    cells = {parts[0]: [part.strip() for part in parts[1:] if part.strip()] for parts in words[2:]}
    fixed, share = (line[f"test/ct/slices/any/{name}"] for name in ("fixed_rate", "layer_share"))
    assert cells["any finding"][1:3] == [f"{fixed:.3f}", f"{share:.3f}"]
    assert cells["nodule"][1:3] == [f"{line['test/ct/slices/nodule/fixed_rate']:.3f}", "-"]


def test_further_sets_have_rows_and_tables_of_their_own() -> None:
    """X-rays of two sets and CTs of one: every half of every table, each under its set's name and with its labels."""
    other = RecordSet("other", pathlib.Path("other"), {"labels": ["mass"]})
    named = [
        places.Place("xray", "xray", MINE, alone=False),
        places.Place("xray:other", "xray", other, alone=False),
        places.Place("ct", "ct", MINE, alone=False),
    ]
    line = {"step": 1} | _evaluated("test")
    line |= {key.replace("/xray/", "/xray:other/"): value for key, value in line.items() if "/xray/" in key}
    line["test/xray:other/zeroshot/mass"] = 0.25
    line |= {f"test/gap/{name}/accuracy": 0.5 for name in ("xray:other_ct", "xray:other_ct_cls")}
    shown = {table.title: table for table in tables.result_tables([line], named)}
    glance = shown["Held-out patients at a glance"]
    assert [row.name for row in glance.rows] == ["X-ray, mine", "X-ray, other", "CT, mine"]
    assert shown["X-ray, other: AUC by finding"].rows[0].name == "mass"
    assert {"X-ray, mine: AUC by finding", "CT, mine: AUC by finding"} <= shown.keys()
    assert "X-ray, other, report to image" in [row.name for row in shown["Report retrieval"].rows]
    gaps = [row.name for row in shown["Modality gap"].rows]
    assert {"X-ray, other and CT, mine images", "X-ray, other and CT, mine images, CLS"} <= set(gaps)


def test_the_card_of_an_export_has_a_column_for_every_set() -> None:
    final = {"step": 3, "test/xray/probe/macro10": 0.75, "test/xray:other/probe/macro10": 0.5, "test/ct/cases": 1.0}
    rows = card._results([final])
    assert rows[:2] == ["| | X-ray | CT | X-ray, other |", "|---|---|---|---|"]
    assert rows[2].endswith("| 0.750 | - | 0.500 |")
    assert len(rows) == 3
