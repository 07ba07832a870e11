"""The report page: one file, no network, the metrics' own numbers, reports only if asked for."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.pages import HOSTILE, Parsed, assert_loads_and_runs_nothing, assert_same_page_but_for_texts
from unimedi_jax.input.places import Place
from unimedi_jax.input.records import RecordSet
from unimedi_jax.report import content, figures, page, tables

SECRET = "Nodule <script>alert(1)</script> of Mrs. Doe & son"


def _metrics() -> list[dict]:
    rng = np.random.default_rng(0)
    lines = [{"step": 0, "time": 1e9, "untrained/xray/zeroshot/macro": 0.5}]
    for step in range(1, 9):
        parts = {f"loss/{name}": float(rng.random()) for name in ("vl", "icl", "pcl")}
        lines.append({"step": step, "time": 1e9 + 60 * step, "loss": sum(parts.values()), **parts})
        lines[-1] |= {"lr": 1e-4 * step, "xray/vl": 0.3, "ct/vl": 0.4, "speed/samples_per_s": 41.25}
    final = {
        "test/xray/zeroshot/macro": 0.8123456789012345,
        "test/xray/zeroshot/macro/low": 1 / 3,
        "test/xray/zeroshot/macro/high": 0.9,
        "test/xray/zeroshot/nodule": 0.8123456789012345,
        "test/xray/zeroshot/nodule/positives": 37.0,
        "test/xray/zeroshot/a<b": None,
        "test/ct/slices/any/hit_rate": 0.75,
        "test/ct/slices/any/random_rate": 0.46428571428571425,
        "test/ct/slices/any/cases": 41.0,
    }
    for k in (1, 5, 10):
        final |= {f"test/ct/retrieval/i2t_r{k}": k / 17, f"test/ct/retrieval/chance_r{k}": k / 170}
    return [*lines, {"step": 8, "time": 1e9 + 500, **final}]


@pytest.fixture(scope="module")
def filled() -> content.PageContent:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    lesion = np.zeros((8, 16, 16), bool)
    lesion[3, 4:8, 4:8] = True
    metrics = _metrics()
    contract = {"labels": ["nodule", "a<b"], "splits": {"xray": {"train": 12, "test": 3}, "ct": {"train": 4}}}
    mine = RecordSet("mine", Path("mine"), contract)
    return content.PageContent(
        name="run <1>",
        config={"seed": 0, "data": {"name": "a&b", "path": "https://example.org/x"}},
        contracts={"mine": contract},
        metrics=metrics,
        tables=tables.result_tables(metrics, [Place(name, name, mine) for name in ("xray", "ct")]),
        embedding=content.EmbeddingMap(
            rng.normal(size=(12, 2)), ["X-ray", "CT"] * 6, ["nodule", "normal", "normal"] * 4
        ),
        attention=[content.AttentionExample(image, rng.random((2, 2)), "a<b", SECRET)],
        slices=[
            content.SliceExample(
                volume=rng.integers(-1000, 400, (8, 16, 16)).astype(np.int16),
                scores=rng.random(4),
                chosen_layers=np.array([1, 2]),
                chosen_slices=np.array([3, 5]),
                findings="nodule",
                report=SECRET,
                lesion=lesion,
            )
        ],
        retrieval=[
            content.RetrievalExample(
                "X-ray",
                image,
                SECRET,
                [content.Retrieved(SECRET, 0.9, True), content.Retrieved("Clear lungs.", 0.4, None)],
            )
        ],
        notes=["X-ray, a<b: the prompt pair may be inverted."],
    )


@pytest.fixture(scope="module")
def shown(filled: content.PageContent) -> str:
    return page.render(filled, show_reports=True)


def test_numbers_are_those_of_the_metrics(filled: content.PageContent, shown: str) -> None:
    numbers = Parsed(shown).numbers
    written = {}
    for line in filled.metrics:
        for key, value in line.items():
            written.setdefault(key, []).append(value)
    for key, exact, text in numbers:
        value = json.loads(exact)
        assert value in written[key]
        digits = len(text.partition(".")[2])
        assert text == ("n/a" if value is None else f"{value:.{digits}f}")
    last = {key: values[-1] for key, values in written.items()}
    table_keys = {key for key in last if key.startswith(("test/", "untrained/"))}
    assert {key for key, *_ in numbers} >= table_keys  # none is left out
    assert all(json.loads(exact) == last[key] for key, exact, _ in numbers if key in table_keys)
    texts = {key: text for key, _, text in numbers}
    assert texts["test/xray/zeroshot/macro"] == "0.812"
    assert texts["test/xray/zeroshot/nodule/positives"] == "37"
    assert texts["test/xray/zeroshot/a<b"] == "n/a"


def test_page_loads_nothing_and_runs_nothing(shown: str) -> None:
    assert_loads_and_runs_nothing(shown)


def test_links_and_pictures_are_whole(shown: str) -> None:
    parsed = Parsed(shown)
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    assert len(links) == 8
    assert {str(link)[1:] for link in links} == ids
    pictures = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(pictures) == 5 + 2 + 2 + 3 + 1  # curves, maps, X-ray, CT, query
    for picture in pictures:
        data = base64.b64decode(str(picture["src"]).partition(",")[2])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
        assert picture["alt"]


def test_every_loss_and_measure_has_axes_of_its_own_with_their_unit() -> None:
    """On the axis of another it would bend its curve."""
    losses = ["loss", "loss/vl", "loss/pcl", "loss/mine", "xray/vl", "ct/vl", "xray/pcl"]
    others = ["xray/icl_information", "ct/icl_information", "xray/icl_prototypes", "lr"]
    validated = ["val/loss", *(f"val/{place}/zeroshot/macro" for place in ("xray", "ct", "xray:mine"))]
    validated += ["val/ct/slices/any/hit_rate", "val/xray/zeroshot/nodule", "val/xray/retrieval/i2t_r5/low"]
    keys = [*losses, *others, *validated]
    lines = [{"step": step, **dict.fromkeys(keys, 0.5 * step)} for step in (1, 2)]
    panels = {panel.title: panel for panel in page._panels([*lines, {"step": 2, "test/once": 1.0}])}
    shown = {title: (panel.unit, dict(panel.keys), panel.chance) for title, panel in panels.items()}
    auc = {"val/xray/zeroshot/macro": "X-rays", "val/ct/zeroshot/macro": "CTs"}
    assert shown == {
        "Total loss": ("weighted sum of all losses", {"loss": "loss"}, None),
        "Image-report contrast (vl)": ("nats", {"xray/vl": "X-rays", "ct/vl": "CTs", "loss/vl": "all"}, None),
        "Distillation of patches (pcl)": ("nats", {"xray/pcl": "X-rays"}, None),
        "mine": ("loss", {"loss/mine": "all"}, None),
        "Information of the targets (icl)": (
            "nats",
            {"xray/icl_information": "X-rays", "ct/icl_information": "CTs"},
            None,
        ),
        "Prototypes (icl)": ("prototypes", {"xray/icl_prototypes": "X-rays"}, None),
        "Learning rate": ("learning rate", {"lr": "learning rate"}, None),
        "Validation: loss": ("loss", {"val/loss": "loss"}, None),
        "Validation: zero-shot classification": (
            "AUC, mean over findings",
            auc | {"val/xray:mine/zeroshot/macro": "X-rays, mine"},
            0.5,
        ),
        "Validation: chosen slices": ("share of CTs hit", {"val/ct/slices/any/hit_rate": "CTs"}, None),
    }


def test_reports_are_hidden_unless_asked_for(filled: content.PageContent, shown: str) -> None:
    parsed = Parsed(page.render(filled))
    text = " ".join([*parsed.text, *(attributes.get("alt") or "" for _, attributes in parsed.tags)])
    for word in ("Doe", "Clear lungs", "alert"):
        assert word not in text
    assert text.count("hidden") == 5 + 1  # every report, and the note that says how to show them
    assert "--config.show_reports=yes" in text
    assert "--config.show_reports" not in shown


def test_texts_are_escaped(shown: str) -> None:
    assert "<script" not in shown
    text = Parsed(shown).text
    assert text.count(SECRET) == 4
    assert "run <1>" in text
    assert "a<b" in text
    assert '"a&b"' in text


def _of_texts(text: Callable[[str], str]) -> content.PageContent:
    """A page whose every text comes from outside, as `text` of the name of its place."""
    image, lesion = np.zeros((8, 8), np.uint8), np.zeros((8, 4, 4), bool)
    cells = [content.Cell(text("key"), text("beside key"), text("beside name")), content.Cell("not measured")]
    ends = {text("key") + f"/{end}": 0.5 for end in ("low", "high")}
    retrieved = content.Retrieved(text("retrieved report"), 0.5, False)
    return content.PageContent(
        name=text("name"),
        kind=text("kind"),
        config={text("setting"): {text("inner setting"): text("set to")}},
        contracts={
            text("set"): {
                "labels": [text("label")],
                "splits": {text("modality"): {text("split"): text("count")}},
                text("rule"): [text("ruled")],
            },
            text("other set"): {},
        },
        metrics=[{"step": 1, text("key"): 0.5, text("beside key"): 0.25} | ends],
        tables=[
            content.Table(
                text("table"), (text("first column"), "a", "b"), [content.Row(text("row"), cells)], text("table note")
            )
        ],
        embedding=None,
        attention=[
            content.AttentionExample(
                image, np.ones((2, 2)), text("finding"), text("X-ray report"), reason=text("reason of the X-ray")
            )
        ],
        slices=[
            content.SliceExample(
                lesion.astype(np.int16), np.ones(2), np.array([1]), np.array([4]), text("CT finding"), text("CT report")
            )
        ],
        retrieval=[content.RetrievalExample(text("retrieval modality"), image, text("true report"), [retrieved])],
        notes=[text("note")],
        headline=[text("sentence")],
        flags=[text("flag")],
        pictures=[(text("picture"), figures.greyscale(image))],
    )


def test_hostile_texts_stay_texts_wherever_they_come_from() -> None:
    places = []

    def hostile(place: str) -> str:
        places.append(place)
        return f"{place}: {HOSTILE}"

    hostile_page = page.render(_of_texts(hostile), show_reports=True)
    assert_loads_and_runs_nothing(hostile_page)
    assert_same_page_but_for_texts(hostile_page, page.render(_of_texts(str), show_reports=True))
    assert "<script" not in hostile_page
    assert len(set(places)) == 32
    shown = Parsed(hostile_page).shown
    for place in places:
        as_is = f"{place}: {HOSTILE}"
        assert as_is in shown or json.dumps(as_is) in shown, place
    assert "<title>name: &lt;script" in hostile_page


def test_counts_of_the_data_set(shown: str) -> None:
    text = "|".join(Parsed(shown).text)
    assert "Cases|train|test|xray|12|3|ct|4|0" in text


def test_empty_run_still_gives_a_page() -> None:
    empty = content.PageContent("empty", config={}, contracts={}, metrics=[], tables=[])
    parsed = Parsed(page.render(empty))
    assert not [tag for tag, _ in parsed.tags if tag in ("section", "img", "table")]


def test_write_makes_folders_and_leaves_nothing_half(
    tmp_path: Path, filled: content.PageContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report" / "index.html"
    assert page.write(path, filled, show_reports=True) == path
    before = path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]

    def fails(*_: object, **__: object) -> bytes:
        raise RuntimeError("no picture")

    monkeypatch.setattr(figures, "curves", fails)
    with pytest.raises(RuntimeError, match="no picture"):
        page.write(path, filled)
    assert path.read_text(encoding="utf-8") == before


def test_marks_of_a_number_are_words_and_carry_their_counts() -> None:
    line = {"auc": 0.31, "auc/positives": 3.0, "auc/negatives": 41.0, "r5": 0.02, "chance": 0.05, "fair": 0.7}
    line |= {"fair/positives": 10.0, "fair/negatives": 10.0}
    cells = [
        content.Cell("auc", chance=0.5, counts="auc"),
        content.Cell("fair", chance=0.5, counts="fair"),
        content.Cell("r5", "chance", "chance", chance="chance"),
    ]
    table = content.Table("marks", ("", "few", "enough", "r5"), [content.Row("row", cells)])
    html = page.render(content.PageContent("marks", {}, {}, [{"step": 0, **line}], [table]))
    text = "|".join(Parsed(html).text)
    assert "0.310|▼ below chance|few cases:|3|with,|41|without|0.700|0.020|▼ below chance|chance|0.050" in text
    assert "few cases" not in text.partition("0.700")[2], "ten of both are enough"
    assert '<span class="few">' in html
    words = tables.text(table, [line])
    assert "0.310 (below chance, few cases)" in words
    assert "0.020 (below chance, chance 0.050)" in words


def test_open_is_neither_right_nor_wrong(shown: str) -> None:
    text = Parsed(shown).text
    verdicts = [word for word in text if word in ("right", "wrong", "open")]
    assert verdicts == ["right", "open"]
