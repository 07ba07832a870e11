"""What training does to the sentences of reports."""

import collections
import itertools

import numpy as np
import pytest

from data.phantom import grammar
from data.reports.text import clean
from unimedi_jax.input import sentences
from unimedi_jax.input.transforms import ToSample

REPORT = "FINDINGS: Mass of 12.1 cm. No effusion! Is the heart enlarged? IMPRESSION: Mass."
PARTS = ["FINDINGS: Mass of 12.1 cm.", "No effusion!", "Is the heart enlarged?", "IMPRESSION: Mass."]


def test_a_decimal_point_ends_no_sentence() -> None:
    assert sentences.split(REPORT) == PARTS
    assert sentences.split(" one sentence ") == ["one sentence"]
    assert sentences.split("") == [""]


def test_the_order_is_drawn() -> None:
    rng = np.random.default_rng(0)
    orders = {sentences.shuffle(REPORT, rng) for _ in range(300)}
    assert len(orders) == 24
    assert all(sorted(sentences.split(order)) == sorted(PARTS) for order in orders)


@pytest.mark.parametrize(("share", "number"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.7, 3), (1.0, 4)])
def test_a_part_of_the_sentences_in_their_order(share: float, number: int) -> None:
    rng = np.random.default_rng(0)
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(400):
        chosen = sentences.split(sentences.draw_part(REPORT, share, rng))
        assert len(chosen) == number
        assert chosen == [part for part in PARTS if part in chosen]
        counts.update(chosen)
    expected = 400 * number / 4
    assert all(abs(counts[part] - expected) < 60 for part in PARTS), "all are equally likely"


def test_a_report_of_one_sentence_stays() -> None:
    assert sentences.draw_part("Normal", 0.1, np.random.default_rng(0)) == "Normal"


def test_halves_share_no_sentence_and_lose_none() -> None:
    rng, report = np.random.default_rng(0), f"{REPORT} Normal."
    sizes = collections.Counter()
    for _ in range(200):
        one, other = (sentences.split(half) for half in sentences.halves(report, rng))
        assert sorted([*one, *other]) == sorted([*PARTS, "Normal."])
        assert all(half == [part for part in [*PARTS, "Normal."] if part in half] for half in (one, other))
        sizes[len(one)] += 1
    assert sizes.keys() == {2, 3}
    assert abs(sizes[2] - 100) < 40
    assert sentences.halves("Normal.", rng) == ("Normal.", "Normal.")


@pytest.mark.parametrize("language", ["en", "es"])
def test_every_sentence_on_the_phantoms_technique_goes_and_no_finding_does(language: str) -> None:
    words = grammar.LANGUAGES[language]
    for modality, options in words["technique"].items():
        assert all(map(sentences.names_technique, options)), modality
    for pair in grammar.prompts(language).values():
        assert not any(map(sentences.names_technique, [*pair["positive"], *pair["negative"], *words["clean"]]))
    for label in grammar.LABELS:
        options = [*itertools.chain(*words["present"][label].values())]
        assert not any(sentences.names_technique(option.format_map(collections.defaultdict(str))) for option in options)


@pytest.mark.parametrize(
    "technique",
    [
        "PA and lateral views of the chest.",
        "Two views.",
        "EXAMINATION: Portable AP chest radiograph.",
        "Chest, X-ray, single view.",
        "CT of the thorax was performed after injection of 100 mL of Omnipaque.",
        "Axial images were obtained from the thoracic inlet to the adrenal glands by CT.",
        "Slice thickness 1.25 mm, axial sections, lung window.",
        "Se realizó TC de tórax desde los vértices hasta las suprarrenales.",
    ],
)
def test_technique_of_real_reports(technique: str) -> None:
    assert sentences.without_technique(f"{technique} No nodule.") == "No nodule."
    assert sentences.without_technique(technique) == technique, "something must be left"


@pytest.mark.parametrize(
    "finding",
    [
        "Portable AP chest radiograph shows no pneumothorax.",
        "CT demonstrates a 5 mm nodule.",
        "CT was performed and shows a nodule.",
        "The nodule has grown since the CT obtained in May.",
        "Contrast-enhancing mass in the left lung.",
        "No prior study for comparison.",
        "Clear lungs on this view.",
        "The heart is normal.",
        "",
    ],
)
def test_findings_stay(finding: str) -> None:
    assert sentences.without_technique(finding) == finding


def test_a_section_on_technique_goes_as_a_whole() -> None:
    report = "TECHNIQUE: Helical. Omnipaque was given. FINDINGS: No mass. Técnica: TC. Civ. IMPRESSION: Normal."
    assert sentences.without_technique(report) == "FINDINGS: No mass. IMPRESSION: Normal."


@pytest.mark.parametrize(
    "findings", ["FINDINGS:", "FINDINGS", "## Findings", "**Findings**", "FINDINGS -", "Findings:"]
)
@pytest.mark.parametrize("end", [".", ""])
def test_a_section_on_technique_ends_at_the_next_heading_however_written(findings: str, end: str) -> None:
    technique = f"TECHNIQUE: PA views, one EXAM{end}"
    rest = f"{findings}\nLeft effusion. Large heart.\nIMPRESSION\nSick."
    without = sentences.without_technique(clean(f"INDICATION: Cough.\n{technique}\n{rest}"))
    assert without == clean(f"INDICATION: Cough.\n{rest}")


class Words:
    """A tokenizer of the shape transformers has, one id a letter."""

    def __call__(self, texts, *, max_length, **_):
        ids = np.zeros((len(texts), max_length), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = [ord(letter) for letter in text[:max_length]]
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


def test_samples_are_cut_in_training_alone_and_the_same_again() -> None:
    sizes = dict(crop=224, image_size=112, image_patch=(16, 16), volume_size=(32, 64, 64), volume_patch=(4, 16, 16))
    whole = ToSample("xray", Words(), 120, **sizes)
    cut = ToSample("xray", Words(), 120, **sizes, sentences=0.5, drop_technique=True)
    report = f"Single frontal view of the chest. {REPORT}"
    record = {"id": "a", "report": report, "image": np.zeros((256, 256), np.uint8)}

    def text(sample) -> str:
        return "".join(chr(code) for code in sample["text"] if code)

    assert text(cut(record)) == text(whole(record, np.random.default_rng(1))) == report
    read = [text(cut(record, np.random.default_rng([5, i]))) for i in range(40)]
    assert read == [text(cut(record, np.random.default_rng([5, i]))) for i in range(40)]
    assert {len(sentences.split(one)) for one in read} == {2}
    assert len(set(read)) == 6, "every pair of the four sentences"
    assert not any("view" in one for one in read)
