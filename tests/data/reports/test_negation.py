"""Reports that say the opposite: by hand, over the phantom's whole grammar, and on real reports."""

import csv
import pathlib
import re

import numpy as np
import pytest

from data.phantom import grammar
from data.phantom.findings import LABELS
from data.reports import negation

REAL = pathlib.Path(__file__).parents[3] / ".." / "shared" / "data" / "real_text"
PAIRS = [
    ("No pleural effusion.", "Pleural effusion."),
    ("No consolidation or pleural effusion.", "Consolidation and pleural effusion."),
    ("There is no mass or nodule.", "There is mass and nodule."),
    ("No evidence of pneumothorax.", "Evidence of pneumothorax."),
    ("The lungs are free of consolidation.", "The lungs show consolidation."),
    ("Both lungs are expanded without pneumothorax.", "Both lungs are expanded with pneumothorax."),
    ("Pericardial effusion was not observed.", "Pericardial effusion was observed."),
    ("There is a 9 mm nodule in the right lung.", "There is no 9 mm nodule in the right lung."),
    ("Two nodules in the left lung.", "No nodules in the left lung."),
    ("Patchy opacification is seen in the left lobe.", "Patchy opacification is not seen in the left lobe."),
    ("Small right pleural effusion.", "No small right pleural effusion."),
    ("CT shows nodules.", "CT shows no nodules."),
    ("The heart is normal in size.", "The heart is enlarged."),
    ("The heart is enlarged.", "The heart is normal in size."),
    ("FINDINGS: No edema. IMPRESSION: Cardiomegaly.", "FINDINGS: Edema. IMPRESSION: No cardiomegaly."),
    ("Line with no lung markings: small pneumothorax.", "Line with no lung markings: no small pneumothorax."),
    ("Sin derrame pleural.", "Derrame pleural."),
    ("No se observa masa ni nódulo.", "Se observa masa y nódulo."),
    ("Pulmones sin consolidación.", "Pulmones con consolidación."),
    ("Existe un nódulo de 8 mm.", "No existe nódulo de 8 mm."),
    ("Dos nódulos en el pulmón derecho.", "Sin nódulos en el pulmón derecho."),
    ("El corazón es de tamaño normal.", "El corazón está aumentado de tamaño."),
]
SAME = [
    "",
    "Axial CT of the chest without contrast.",
    "The trachea is central.",
    "No prior study for comparison.",
    "Viral pneumonia?",
    "Possible small nodule.",
    "Cannot exclude pneumothorax.",
    "TC axial de tórax sin contraste.",
    "Sin estudio previo para comparar.",
]


@pytest.mark.parametrize(("report", "expected"), PAIRS)
def test_known_sentences(report: str, expected: str) -> None:
    assert negation.flip(report) == expected


@pytest.mark.parametrize("report", SAME)
def test_what_names_no_finding_or_is_in_doubt_stays(report: str) -> None:
    assert negation.flip(report) == report


DENIES = {
    "en": re.compile(r"\b(no|not|without|free of|normal|unremarkable)\b", re.IGNORECASE),
    "es": re.compile(r"\b(no|sin|normal)\b", re.IGNORECASE),
}


@pytest.mark.parametrize("language", ["en", "es"])
def test_every_sentence_of_the_grammar_about_a_finding_is_turned(language: str) -> None:
    """What denies no longer does, what does not does; and the prompts of a finding change sides."""
    words, denies = grammar.LANGUAGES[language], DENIES[language]
    slots = dict(zip(("side", "level", "size", "rim"), (words["side"]["right"], "x", "y", "z"), strict=True))
    slots |= {name.capitalize(): value.capitalize() for name, value in slots.items()}
    slots |= {"side_c": slots["Side"], "mm": "9", "cm": "1.2", "share": "20", "ratio": "0.61"}
    asserted, denied = [], []
    for kind in (*LABELS, "nodules"):
        options = words["present"][kind]
        asserted += [x.format(**slots) for x in (*options["any"], *options.get("xray", []), *options.get("ct", []))]
        asserted += [x.format(**slots) for x in words["conclude"][kind]]
    for label, pair in grammar.prompts(language).items():
        asserted += pair["positive"]
        denied += pair["negative"]
        denied += [form.format(list=name) for form in words["deny"] for name in words["absent"][label]]
        denied += words["fine"][label]
    denied += words["clean"][:1]
    for sentence in asserted:
        turned = negation.flip(sentence)
        assert turned != sentence
        assert len(denies.findall(turned)) == len(denies.findall(sentence)) + 1, turned
    for sentence in denied:
        turned = negation.flip(sentence)
        assert denies.search(sentence), sentence
        assert not denies.search(turned), turned


@pytest.mark.parametrize("language", ["en", "es"])
def test_asides_of_the_grammar_that_name_no_finding_stay(language: str) -> None:
    words = grammar.LANGUAGES[language]
    named = ("fracture", "node", "fractura", "adenop", "alteraciones", "unremarkable")
    for aside in (x for part in words["aside"].values() for x in part):
        assert (negation.flip(aside) != aside) <= any(name in aside for name in named), aside
    for sentence in (x for part in words["technique"].values() for x in part):
        assert negation.flip(sentence) == sentence


def reports() -> list[str]:
    with (REAL / "en_chest_xray_reports_openi.csv").open(encoding="utf-8", newline="") as file:
        rows = [f"{row['findings']} {row['impression']}".strip() for row in csv.DictReader(file)]
    with (REAL / "en_chest_ct_reports.csv").open(encoding="utf-8", newline="") as file:
        rows += [row["report"] for row in csv.DictReader(file)]
    return [" ".join(row.split()) for row in rows if row.strip()]


@pytest.mark.skipif(not REAL.exists(), reason="no real reports beside the project (../shared/data)")
def test_real_reports_are_turned() -> None:
    """Nine of ten change; of "No X." the denial is gone, and of "There is X." it is there."""
    rows = reports()
    turned = [negation.flip(row) for row in rows]
    assert np.mean([a != b for a, b in zip(rows, turned, strict=True)]) > 0.9
    pieces = {piece for row in rows for piece in negation.PIECE.split(row)}
    plain = [
        piece for piece in pieces if re.fullmatch(r"(There (is|are) no|No) [a-z ]*(effusion|pneumothorax)\.", piece)
    ]
    assert len(plain) > 20
    assert not any(re.search(r"\bno\b", negation.flip_sentence(piece), re.IGNORECASE) for piece in plain)
    there = [piece for piece in pieces if re.match(r"There (is|are) (?!no\b)[^?]*(effusion|nodule)", piece)]
    hedge = negation.rules("en").hedge
    doubtful = (hedge, DENIES["en"], re.compile(r"\?"))
    there = [piece for piece in there if not any(sign.search(piece) for sign in doubtful)]
    assert len(there) > 20
    assert all(re.match(r"There (is|are) no ", negation.flip_sentence(piece)) for piece in there)
