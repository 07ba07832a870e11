"""Sections, captions and languages of reports: by hand, and on the real texts with every count."""

import collections
import csv
import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.readers.files import BadInput
from data.reports import sections, text
from data.reports.sections import Policy

REAL = Path(__file__).parents[3] / ".." / "shared" / "data" / "real_text"
# The form of MIMIC-CXR's files: lines begin with a blank, the addendum stands first, blanks are "___".
MIMIC = """                                 FINAL REPORT
 ADDENDUM  Read again with Dr. ___.
 ______________________________________________________________________________
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough: please
 exclude pneumonia.

 COMPARISON:  ___

 FINDINGS:

 The lungs are clear.  Note: no effusion.
 1.5 cm nodule at the left base.

 IMPRESSION:

 1. No pneumonia.
 2. Nodule, seen on ___.
"""


def caption(report, **policy):
    counts = collections.Counter()
    return sections.caption(report, Policy(**policy), counts), counts


def test_a_report_of_mimic_s_form():
    parts = sections.sections(MIMIC)
    assert parts["findings"] == "The lungs are clear. Note: no effusion. 1.5 cm nodule at the left base."
    assert parts["impression"] == "1. No pneumonia. 2. Nodule, seen on ___."
    assert parts["comparison"] == "___"
    joined, counts = caption(MIMIC)
    assert joined == f"{parts['impression']} {parts['findings']}", "the impression comes first"
    assert counts == {"with impression": 1, "with findings": 1, "with blanks": 1}


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("IMPRESSION", "impression"),
        ("Conclusion", "impression"),
        ("IMPRSSION", "impression"),
        ("MPRESSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINIDNGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PA AND LATERAL VIEWS OF THE CHEST", "findings"),
        ("COMPARSION", "comparison"),
        ("IDICATION", "other"),
        ("WET READ", "other"),
        ("PFI", "other"),
        ("Hallazgos", "findings"),
        ("FINAL IMPRESSION", "impression"),
    ],
)
def test_headings_and_their_misspellings(heading, name):
    assert sections.common_name(heading) == name


@pytest.mark.parametrize(
    "report",
    [
        "FINDINGS\nClear lungs.\nIMPRESSION\nNormal chest.",
        "Findings\n\nClear\nlungs.\n\nImpression\n\nNormal chest.",
        "## Findings\nClear lungs.\n## Impression\nNormal chest.",
        "**Findings:** Clear lungs.\n\n**Impression:** Normal chest.",
        "**FINDINGS**\nClear lungs.\n**IMPRESSION**\nNormal chest.",
        "FINDINGS - Clear lungs. IMPRESSION \u2013 Normal chest.",
        "FINDINGS:\nClear lungs.\n\nIMPRESSION\nNormal chest.",
        "findings: Clear lungs. IMPRESSION - Normal chest.",
    ],
)
def test_headings_without_a_colon(report):
    assert sections.sections(report) == {"findings": "Clear lungs.", "impression": "Normal chest."}


def test_words_of_a_sentence_are_no_headings():
    report = "Findings: No acute\nfindings\nin either lung, no change of findings - stable; impression - none."
    assert list(sections.sections(report)) == ["findings"]


@pytest.mark.parametrize(
    ("report", "findings", "impression"),
    [
        (
            "FINDINGS:\nLUNGS: Nodule.\nCHEST WALL: Normal.\nOTHER FINDINGS: None.\nIMPRESSION: Nodule.\nADVICE: CT.",
            "LUNGS: Nodule. CHEST WALL: Normal. OTHER FINDINGS: None.",
            "Nodule. ADVICE: CT.",
        ),
        ("EXAM: CT CHEST\nFindings: Nodule.\nImpression: Benign.", "Nodule.", "Benign."),
        ("EXAM: CT CHEST. FINDINGS: Nodule. IMPRESSION: Benign.\nDICTATED BY: Dr. X", "Nodule.", "Benign."),
        ("Findings:\nRUL: Nodule\nImpression: Benign.", "RUL: Nodule", "Benign."),
        ("HALLAZGOS: Nódulo.\nIMPRESIÓN: Benigno.", "Nódulo.", "Benigno."),
        ("HALLAZGOS: Nódulo.\nIMPRESIO\u0301N: Benigno.", "Nódulo.", "Benigno."),
        ("TECNICA: TC.\nHallazgos: Nódulo.\nImpresion: Benigno.", "Nódulo.", "Benigno."),
        (
            "FINDINGS: Stable in comparison: no nodule.\nFINAL IMPRESSION: Normal.",
            "Stable in comparison: no nodule.",
            "Normal.",
        ),
        (
            "INDICATION: Cough.\nDATE: Today.\nLUNGS: Clear.\nFINDINGS: Nodule.\nIMPRESSION: Benign.",
            "Nodule.",
            "Benign.",
        ),
    ],
)
def test_known_headings_count_in_any_case_and_sub_headings_belong_to_their_section(report, findings, impression):
    parts = sections.sections(report)
    assert (parts.get("findings"), parts.get("impression")) == (findings, impression)
    assert sections.select(report, Policy(("impression",), empty="whole")) == impression


def test_the_last_section_of_a_name_counts_and_empty_ones_do_not():
    report = " CHEST, PA AND LATERAL:\n\n HISTORY: Cough.\n\n IMPRESSION: Old.\n IMPRESSION: New.\n FINDINGS:\n"
    assert sections.sections(report) == {"other": "Cough.", "impression": "New."}


def test_mimic_s_rule_knows_capitals_at_line_starts_alone():
    """MIT-LCP's create_section_files.py; other reports may write a known heading in any case."""
    report = "\n FINDINGS: In comparison: stable.\n Impression: of a nodule.\n LUNGS: Clear.\n"
    assert sections.sections(report, sections.MIT_LCP) == {
        "findings": "In comparison: stable. Impression: of a nodule.",
        "other": "Clear.",
    }
    assert sections.sections(report) == {
        "findings": "In comparison: stable.",
        "impression": "of a nodule. LUNGS: Clear.",
    }
    assert caption(report, headings=sections.MIT_LCP, order=("impression",), empty="whole")[1]["whole stands in"] == 1


@pytest.mark.parametrize(
    "report", ["FINDINGS: None.\nIMPRESSION: Small effusion.", "FINDINGS:\n ___\nIMPRESSION: Small effusion."]
)
def test_a_section_without_words_is_not_selected(report):
    assert sections.select(report, Policy(("findings", "impression"), empty="whole")) == "Small effusion."


def test_the_last_paragraph_stands_in_where_asked():
    report = " EXAMINATION: Chest.\n\n INDICATION: Fever.\n \n The lungs are clear.\n\n No effusion.\n"
    assert sections.sections(report)["last_paragraph"] == "The lungs are clear. No effusion."
    assert sections.sections(report.replace(" Fever.", " "))["last_paragraph"] == "The lungs are clear. No effusion."
    with pytest.raises(BadInput, match="empty_report"):
        caption(report)
    assert caption(report, empty="last_paragraph") == (
        "The lungs are clear. No effusion.",
        {"last_paragraph stands in": 1},
    )
    whole, counts = caption("The lungs are clear.", empty="whole")
    assert (whole, counts) == ("The lungs are clear.", {"whole stands in": 1})


@pytest.mark.parametrize(
    "report",
    [
        "Not given.",
        "not given",
        "N/A.",
        "No disponible.",
        "",
        " \n",
        "___",
        "FINDINGS: ___.\nIMPRESSION: .\n",
        {"findings": "nan"},
    ],
)
@pytest.mark.parametrize("empty", ["drop", "last_paragraph"])
def test_a_report_without_words_is_dropped_whatever_stands_in(report, empty):
    with pytest.raises(BadInput, match="empty_report"):
        caption(report, empty=empty)


def test_blanks_are_kept_or_removed():
    report = {"impression": "Seen by Dr. ___ on ___.", "findings": "XXXX XXXX left. [**Name 1**] clear XXXX-XXXX."}
    assert "___" in caption(report)[0]
    assert caption(report, blanks="remove")[0] == "Seen by Dr. on. left. clear."


def test_long_captions_lose_sentences_and_keep_the_impression():
    report = {"findings": "One two three. Four five six. Seven.", "impression": "No mass. Stable for years."}
    order = ("findings", "impression")
    assert caption(report, order=order, longest=12)[1]["cut"] == 0
    assert caption(report, order=order, longest=9)[0] == "One two three. No mass. Stable for years."
    assert caption(report, order=order, longest=4)[0] == "No mass."
    assert caption(report, order=order, longest=1)[0] == "No"
    assert caption({"findings": "word " * 20_000}, longest=7)[0] == "word " * 6 + "word"


def test_mgca_s_caption():
    """By hand from its rules: lists and decimals are broken at numbers, sentences of one word go."""
    report = {"findings": "Lungs clear. Normal.\n1. No naïve 2.5 cm mass. ___ noted.", "impression": "No change."}
    assert caption(report, style="mgca")[0] == "no change lungs clear no nave 5 cm mass ___ noted"
    with pytest.raises(BadInput):
        caption({"impression": "No change."}, style="mgca")


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": ()},
        {"order": ("history",)},
        {"empty": "x"},
        {"blanks": ""},
        {"style": "x"},
        {"longest": -1},
        {"headings": "x"},
    ],
)
def test_policies_that_are_none(wrong):
    with pytest.raises(UserError, match=r"config\.report"):
        Policy(**wrong)


def rows(name):
    with (REAL / name).open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream] if name.endswith("jsonl") else list(csv.DictReader(stream))


def run(reports, **policy):
    """Counts over reports, and the languages of their captions."""
    counts: collections.Counter = collections.Counter()
    for report in reports:
        try:
            counts["language " + text.language(sections.caption(report, Policy(**policy), counts))] += 1
        except BadInput as error:
            counts[error.code] += 1
    return {name: count for name, count in counts.items() if count}


@pytest.mark.skipif(not REAL.exists(), reason="no real texts beside the project (../shared/data)")
def test_the_real_reports():
    openi = [
        {name: row[name] for name in ("findings", "impression")} for row in rows("en_chest_xray_reports_openi.csv")
    ]
    of_openi = {"with impression": 1911, "with findings": 1674, "with blanks": 889, "empty_report": 8}
    spoken = {"language en": 1914, "language unknown": 1}
    assert run(openi) == of_openi | spoken
    assert run(openi, blanks="remove", longest=60) == of_openi | spoken | {"cut": 193}
    assert run(openi, style="mgca") == of_openi | spoken
    whole = [row["report"] for row in rows("en_siim_reports.jsonl")]
    assert run(whole) == {"with impression": 4, "with findings": 4, "language en": 4}
    cts = [row["report"] for row in rows("en_chest_ct_reports.csv")]
    assert run(cts) == {"empty_report": 511}, "CT-RATE's reports have no headings"
    of_cts = {"whole stands in": 511, "language en": 511}
    assert run(cts, empty="whole") == of_cts
    assert run(cts, empty="whole", longest=150) == of_cts | {"cut": 422}


@pytest.mark.skipif(not REAL.exists(), reason="no real texts beside the project (../shared/data)")
def test_the_language_of_every_real_text():
    spanish = [
        row["text"] for row in (*rows("es_clinical_cases_spaccc.jsonl"), *rows("es_thoracic_imaging_sentences.csv"))
    ]
    assert collections.Counter(map(text.language, spanish)) == {"es": 740}
    terse = [row["impression"] for row in rows("en_chest_xray_reports_openi.csv") if row["impression"].strip()]
    assert collections.Counter(map(text.language, terse)) == {"en": 1887, "unknown": 24}
