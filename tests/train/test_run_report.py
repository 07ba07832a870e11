"""The page at the end of a run on two sets: both halves of everything, and nothing said that is not known."""

import pathlib
import types

import numpy as np
import pytest

from tests.pages import Parsed
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.evaluation import evaluator, examples
from unimedi_jax.inference import features
from unimedi_jax.input.places import Place
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import auroc, retrieval, slices
from unimedi_jax.report import page
from unimedi_jax.train import run_report

NAN = float("nan")
FILMS = RecordSet("films", pathlib.Path("films"), {"labels": ["nodule", "pleural_effusion"], "splits": {}})
SCANS = RecordSet("scans", pathlib.Path("scans"), {"labels": ["mass", "nodule"], "splits": {}})
PLACES = [Place("xray", "xray", FILMS, alone=False), Place("ct", "ct", SCANS, alone=False)]


def split(place: Place, labels: np.ndarray) -> features.EmbeddedSplit:
    """Cases with these labels; neighbours in the list are neighbours in space."""
    n, rng = len(labels), np.random.default_rng(len(place.name))
    angle = np.linspace(0, 1, n)
    z = np.stack([np.cos(angle), np.sin(angle), *rng.normal(size=(4, n)) / 9], axis=1).astype(np.float32)
    reports = tuple(f"{place.dataset.name} case {row}" for row in range(n))
    about = {"names": tuple(place.labels), "slice_scores": rng.random((n, 4))}
    return features.EmbeddedSplit(z, z, z, labels.astype(np.float32), reports, **about)


def first_six(place: Place, part: features.EmbeddedSplit) -> examples.Examples:
    """Pictures of the first six cases, three of which are queries too."""
    rng, shown = np.random.default_rng(len(part.z)), {}
    for row in range(6):
        case = {"labels": part.labels[row], "report": part.reports[row].encode()}
        if place.modality == "xray":
            case |= {"image": rng.integers(0, 255, (64, 64), np.uint8), "scores": rng.random(4)}
        else:
            scores, volume = rng.random(4), rng.integers(-1000, 300, (8, 32, 32)).astype(np.int16)
            case |= {"volume": volume, "slice_scores": scores, "layers": scores.argsort()[-2:]}
        shown[row] = case
    picked = [examples.Picked(row, f"number {row}") for row in range(6)]
    return examples.Examples(tuple(picked), tuple(picked[:3]), shown)


@pytest.fixture(scope="module")
def content():
    """The page's content: three normal films first, then unknown ones; nine scans with a mass, thirty without."""
    films = np.array([[0, 0]] * 3 + [[NAN, NAN], [1, NAN], [0, NAN]] + [[0, 1], [1, 0]] * 12, float)
    scans = np.array([[1, 0]] * 9 + [[0, 1]] * 12 + [[0, 0]] * 18, float)
    embedded = {p.name: split(p, x) for p, x in zip(PLACES, (films, scans), strict=True)}
    line, rng = {"step": 2, "test/cases": 69.0}, np.random.default_rng(0)
    for place in PLACES:
        part = embedded[place.name]
        scores = rng.normal(size=part.labels.shape) - 2 * np.nan_to_num(part.labels)
        for task in ("zeroshot", "prompts", "probe"):
            auc = auroc.per_label(scores, part.labels, resamples=20)
            line |= {f"test/{place.name}/{task}/{key}": value for key, value in auc.scalars(place.labels).items()}
        recall = retrieval.recall(part.z, part.z_report[::-1], part.reports)
        line |= {f"test/{place.name}/retrieval/{key}": value for key, value in recall.items()}
    line["test/ct/slices/any/layer_share"] = slices.layer_share(embedded["ct"].slice_scores)
    line |= {f"test/gap/{key}": value for key, value in evaluator.gaps(embedded).items()}
    sampler = types.SimpleNamespace(cropped=lambda side: 64, image_size=32, image_patch=(16, 16))
    evaluations = types.SimpleNamespace(places=PLACES, samplers={"xray": sampler, "ct": sampler}, has_joint_space=True)
    about = {"name": "two", "config": {}, "contracts": {one.name: one.contract for one in (FILMS, SCANS)}}
    losses = [{"step": step, "loss": 2.0 / step, "xray/icl_information": 0.1 * step} for step in (1, 2)]
    shown = {p.name: first_six(p, embedded[p.name]) for p in PLACES}
    return run_report._content(about, evaluations, [*losses, line], embedded, shown)


@pytest.fixture(scope="module")
def texts(content) -> list[str]:
    return Parsed(page.render(content, show_reports=True)).text


def test_both_sets_are_in_every_table_on_the_map_and_among_the_cards(content, texts) -> None:
    titles = {table.title: [row.name for row in table.rows] for table in content.tables}
    assert titles["Held-out patients at a glance"] == ["X-ray, films", "CT, scans"]
    assert titles["X-ray, films: AUC by finding"][:2] == ["nodule", "pleural effusion"]
    assert titles["CT, scans: AUC by finding"][:2] == ["mass", "nodule"]
    assert set(titles["Report retrieval"]) == {
        f"{place}, {way}" for place in ("X-ray, films", "CT, scans") for way in ("image to report", "report to image")
    }
    assert {"X-ray, films and CT, scans images", "X-rays, films and their reports"} <= set(titles["Modality gap"])
    assert set(content.embedding.modality) == {"X-ray, films", "CT, scans"}
    assert [example.source for example in (*content.attention, *content.slices)] == ["X-ray, films"] * 6 + [
        "CT, scans"
    ] * 6
    assert {example.source for example in content.retrieval} == {"X-ray, films", "CT, scans"}
    assert {"films", "scans"} <= set(texts)


def test_what_is_unknown_is_never_no_finding(content, texts) -> None:
    assert [example.findings for example in content.attention] == [
        *["no finding"] * 3,
        "findings unknown",
        "nodule; other labels unknown",
        "none of the known labels; others unknown",
    ]
    of_films = content.embedding.finding[: content.embedding.modality.index("CT, scans")]
    assert of_films[:6] == [*["no finding"] * 3, "findings unknown", "nodule", "findings unknown"]
    assert sum("no finding" in text and "X-ray, films" in text for text in texts) == 3


def test_a_normal_report_of_a_normal_film_is_right_and_an_unlabelled_one_is_open(content) -> None:
    films = [example for example in content.retrieval if example.source == "X-ray, films"]
    verdicts = {one.report: one.correct for example in films for one in example.retrieved}
    assert verdicts["films case 0"] is verdicts["films case 1"] is verdicts["films case 2"] is True
    assert verdicts["films case 3"] is None


def test_auc_of_few_cases_is_in_no_headline_and_in_no_warning(content, texts) -> None:
    glance = next(table for table in content.tables if table.title.startswith("Held-out"))
    assert {cell.key.rpartition("/")[2] for row in glance.rows for cell in row.cells[:2]} == {"macro10"}
    line = content.metrics[-1]
    assert line["test/ct/zeroshot/macro10"] == line["test/ct/zeroshot/nodule"]
    assert line["test/ct/zeroshot/mass"] < auroc.INVERTED_BELOW, "nine cases: no warning, though it looks inverted"
    assert not any("mass" in note for note in content.notes)
    assert any("CT, scans, nodule" in note for note in content.notes)
    assert "few cases:" in texts
    assert "\u25bc below chance" in texts


@pytest.mark.parametrize(
    ("setting", "shown"),
    [("yes", True), ("True", True), (True, True), ("no", False), ("false", False), (False, False), ("auto", None)],
)
def test_show_reports_takes_words_and_booleans(setting, shown) -> None:
    assert PretrainConfig(show_reports=setting).reports_shown is shown


def test_show_reports_takes_nothing_else() -> None:
    with pytest.raises(ValueError, match=r"config\.show_reports is yes, no or auto, not 'maybe'"):
        PretrainConfig(show_reports="maybe")
