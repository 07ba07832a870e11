"""Labels, sets and files of any name: metrics, tables, pages and figures hold, and no label is taken for a mean."""

import hashlib
import pathlib

import numpy as np
import pytest

from unimedi_jax.evaluation import results
from unimedi_jax.input import places, records
from unimedi_jax.metrics import auroc, classification, label_keys, segmentation
from unimedi_jax.report import content, figures, page, tables

NAMES = [
    *("macro", "mean", "any", "undefined", ":macro", "macro/low", "a/positives", "a", "a%2Fpositives", "%2Fx", "/x"),
    *("low", "high"),
    *("$\\frac{", "$x$", "{{ 7*7 }}", "{% raw", "<script>alert(1)</script>", "new\nline", "\\", "_hidden", "__", " "),
    *("肺炎", "تضخم القلب", "Лёгкое", "🫁", "x\x1b[31m", "=1+1", "nodule"),
]


def test_keys_are_different_and_none_is_reserved():
    keys = label_keys.of(NAMES)
    assert len(set(keys)) == len(NAMES)
    assert not set(keys) & set(label_keys.RESERVED)
    assert not any("/" in key for key in keys)
    ordinary = ["nodule", "pleural effusion", "No Finding", "100% opacity", "肺炎"]
    assert label_keys.of(ordinary) == ordinary


def labelled(seed: int = 0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (40, len(NAMES))).astype(np.float32)
    return np.clip(targets * 0.3 + rng.random(targets.shape), 0, 1), targets


def test_no_label_becomes_the_mean_or_hides_another():
    scores, targets = labelled()
    by_label = auroc.per_label(scores, targets)
    scalars = by_label.scalars(NAMES)
    expected = [auroc.auroc(scores[:, i], targets[:, i]) for i in range(len(NAMES))]
    assert [scalars[key] for key in label_keys.of(NAMES)] == pytest.approx(expected)
    assert scalars["macro"] == pytest.approx(np.mean(expected))
    assert len(scalars) == 4 + 3 * len(NAMES)  # two means, how many labels are in one, how many have none
    measured = classification.measure(scores, targets, NAMES)
    assert measured["auroc/macro"] == pytest.approx(np.mean(expected))
    assert [measured[f"auroc/{key}"] for key in label_keys.of(NAMES)] == pytest.approx(expected)
    rows = results.of(measured, task="probe", data="mine", modality="xray", encoder="trained")
    written = {row.metric: row.value for row in rows}
    assert [written[f"auroc/{key}"] for key in label_keys.of(NAMES)] == pytest.approx(expected)
    assert all(np.isnan(row.low) for row in rows), "without resamples"
    values, present = np.random.default_rng(1).random((3, len(NAMES), 3)), np.ones((3, len(NAMES)), bool)
    dice = segmentation.summarise(values, present, NAMES)
    assert dice["dice/mean"] == pytest.approx(values[:, :, 0].mean())


def test_tables_and_the_page_show_every_label_as_it_is():
    scores, targets = labelled()
    scalars = auroc.per_label(scores, targets).scalars(NAMES)
    metrics = [{"step": 1, **{f"test/xray/zeroshot/{key}": value for key, value in scalars.items()}}]
    contract = {"name": "</style><script>", "labels": NAMES, "splits": {}}
    xrays = places.Place("xray", "xray", records.RecordSet("mine", pathlib.Path(), contract))
    (findings,) = [table for table in tables.result_tables(metrics, [xrays]) if "finding" in table.title.lower()][:1]
    rows = {row.name: row.cells[0].key for row in findings.rows}
    assert rows["mean over findings"] == "test/xray/zeroshot/macro"
    assert rows["macro"] == "test/xray/zeroshot/:macro"
    assert len(findings.rows) == len(NAMES) + 2
    html = page.render(
        content.PageContent(
            name="{{ 7*7 }}<b>",
            config={"data": "<script>"},
            contracts={"mine": contract},
            metrics=metrics,
            tables=[findings],
        )
    )
    assert "<script" not in html
    assert "49" not in html.split("<h1")[1].split("</h1>")[0]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_figures_take_every_name(recwarn):
    points = np.random.default_rng(0).normal(size=(len(NAMES), 2))
    picture = figures.embedding_map(points, NAMES, ["$\\frac"] * len(NAMES), "$\\title{")
    assert picture.startswith(b"\x89PNG")
    assert figures.curves(
        [{"step": 1, **dict.fromkeys(NAMES, 1.0)}], dict(zip(NAMES, NAMES, strict=True)), title="$\\frac{"
    )
    assert not recwarn.list
    # A name that begins with an underscore is in the legend too.
    hidden, shown = (figures.embedding_map(points[:1], [name], [name], "t") for name in ("_", "."))
    bare = figures.embedding_map(points[:1], [""], [""], "t")
    assert len({hashlib.sha256(one).digest() for one in (hidden, shown, bare)}) == 3
