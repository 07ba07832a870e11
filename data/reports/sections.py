"""Finds the sections of a report and turns them into the caption that training reads; what was done is counted.

A heading is a known word with a colon, in any case, with its accents or without; it also counts without the colon:
alone in a line, with Markdown's marks or without, and in capitals before a dash. Where headings are in capitals at line
starts, unknown words are headings too, but for those within findings and impression, which are part of the section
("LUNGS: ..."). Raw reports of MIMIC-CXR are read as in MIT-LCP's section files: by capitals at line starts alone.
"""

import collections
import dataclasses
import difflib
import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping

from data.errors import UserError, check_choice
from data.readers.files import BadInput
from data.reports import text

HEADINGS = {
    "findings": "findings, finding, description, reference findings, hallazgos, descripción, informe",
    "impression": "impression, impressions, conclusion, conclusions, opinion, findings and impression, "
    "findings/impression, findings/ impression, impresión, conclusión",
    "comparison": "comparison, comparisons, reference exam, comparison exam, comparison film, comparación",
    "other": "indication, indications, history, clinical history, clinical information, reason for exam, "
    "reason for examination, technique, examination, exam, procedure, recommendation, recommendations, "
    "notification, addendum, wet read, motivo, técnica, estudio, "
    "dictated by, signed by, electronically signed by",
}
BODIES = ("findings", "impression")  # the sections that captions are made of
MIT_LCP, KNOWN_WORDS = "mit_lcp", "known_words"  # the rules by which headings count


def _without_accents(word: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))


SECTION_OF = {word: section for section, words in HEADINGS.items() for word in words.split(", ")}
SECTION_OF |= {_without_accents(word): section for word, section in SECTION_OF.items()}
LONGEST_FIRST = sorted(map(re.escape, SECTION_OF), key=len, reverse=True)
KNOWN = f"(?i:{'|'.join(LONGEST_FIRST)})"
CAPITAL = "A-ZÀ-ÖØ-Þ"
LINE_START = {
    MIT_LCP: re.compile(r"^[ \t]*([A-Z][A-Z ()/,-]*):(?=\s|$)", re.MULTILINE),
    KNOWN_WORDS: re.compile(rf"^[ \t]*([{CAPITAL}][{CAPITAL} ()/,-]*):(?=\s|$)", re.MULTILINE),
}
# Not "findings" in a line of its own, where a text was wrapped.
MARKED = rf"^[ \t]*(?:\#+[ \t]*|\*+)({KNOWN})[ \t]*:?\**:?[ \t]*$"
ALONE = rf"^[ \t]*((?=[^\W\d_])(?![a-zà-ÿ]){KNOWN})[ \t]*$"
DASHED = rf"(?<!\w)((?=[^\W\d_]{{2}})(?!\w*[a-zà-ÿ]){KNOWN})[ \t]+[-\u2013\u2014](?=\s)"
WITHOUT_COLON = "|".join((MARKED, ALONE, DASHED))
BEGUN = rf"(?:^[ \t]*|(?<!\w)(?=[{CAPITAL}]))({KNOWN})\s*:"  # not "stable in comparison: ..."
STRUCTURED = {
    MIT_LCP: re.compile(rf"{LINE_START[MIT_LCP].pattern}|{WITHOUT_COLON}", re.MULTILINE),
    KNOWN_WORDS: re.compile(rf"{LINE_START[KNOWN_WORDS].pattern}|{WITHOUT_COLON}|{BEGUN}", re.MULTILINE),
}
ANYWHERE = re.compile(rf"{WITHOUT_COLON}|(?<!\w)({KNOWN})\s*:", re.MULTILINE)
# A heading that names the pictures, such as "PA AND LATERAL VIEWS OF THE CHEST", opens the findings.
VIEWS = re.compile("chest|portable|views?$|lateral|frontal|upright|ribs|bone window")
TYPED_WRONG = 0.8  # how alike (difflib) a misspelt heading is: "imprssion", "findgings"
PARAGRAPH = re.compile(r"\n[ \t]*\n")

BLANKS = re.compile(r"_{2,}|\bX{3,}\b(?:-?\s*X{3,}\b)*|\[\*\*.*?\*\*\]")  # MIMIC-CXR, Open-i, MIMIC-III
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")
NUMBERED, WORD = re.compile(r"[0-9]+\."), re.compile(r"\w+")
CUT, BLANK = "cut", "with blanks"  # what `caption` counts beside sections

EMPTY = ("drop", "last_paragraph", "whole")
STYLES = ("plain", "mgca")
BLANK_RULES = ("keep", "remove")


@dataclasses.dataclass(frozen=True)
class Policy:
    """Settings `config.report` of a named set; all of them go into the contract."""

    order: tuple[str, ...] = ("impression", "findings")  # the sections that make the caption
    empty: str = "drop"  # what a report without these sections gives: nothing, its last paragraph, or all of it
    blanks: str = "keep"  # marks that replace names and dates: "keep" or "remove"
    style: str = "plain"  # "mgca": words alone, in lower case and ASCII
    longest: int = 0  # words; a longer caption loses whole sentences, the impression's last; 0 = any
    headings: str = KNOWN_WORDS  # what counts as one in a raw report, by the set

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        if not self.order or not set(self.order) <= set(BODIES):
            raise UserError(f"config.report.order is {','.join(self.order)!r}: impression, findings or both")
        check_choice("report.empty", self.empty, EMPTY)
        check_choice("report.blanks", self.blanks, BLANK_RULES)
        check_choice("report.style", self.style, STYLES)
        check_choice("report.headings", self.headings, STRUCTURED)
        if self.longest < 0:
            raise UserError(f"config.report.longest is {self.longest}: words, or 0 for any")


def sections(report: str, rule: str = KNOWN_WORDS) -> dict[str, str]:
    """The cleaned parts of a raw report after its headings, by the heading's common name.

    Of several sections of one name the last counts if headings are in capitals at line starts (addenda come first),
    else they are joined. Without findings and impression, what follows the last section's first paragraph is
    "last_paragraph".
    """
    parts = headed(report, rule)
    structured = _is_structured(report, rule)
    bodies: dict[str, str] = {}
    for heading, body in parts:
        if words := text.clean(body).strip("#* "):  # Markdown's marks around headings
            name = common_name(heading)
            bodies[name] = f"{bodies[name]} {words}" if name in bodies and not structured else words
    if bodies.keys().isdisjoint(BODIES):
        # The first paragraph of an empty section is the empty one: what follows does not belong to its heading.
        _, *rest = PARAGRAPH.split(parts[-1][1][1:].rstrip() if parts else report.strip())
        if last := text.clean(" ".join(rest)):
            bodies["last_paragraph"] = last
    return bodies


def headed(report: str, rule: str = KNOWN_WORDS) -> list[tuple[str, str]]:
    """The headings of a raw report as written, each with what follows it."""
    report = unicodedata.normalize("NFC", report)
    structured = _is_structured(report, rule)
    marks = list((STRUCTURED[rule] if structured else ANYWHERE).finditer(report))
    if structured and rule == KNOWN_WORDS:
        marks = list(_without_subheadings(marks))
    ends = [mark.start() for mark in marks[1:]] + [len(report)]
    return [(_heading(mark), report[mark.end() : end]) for mark, end in zip(marks, ends, strict=False)]


def _heading(mark: re.Match) -> str:
    return mark[mark.lastindex]


def _is_structured(report: str, rule: str) -> bool:
    """Whether headings are in capitals at line starts: any, or by KNOWN_WORDS one that is not a sub-heading alone."""
    if "\n" not in report.strip():
        return False
    starts = map(_heading, LINE_START[rule].finditer(report))
    return any(
        rule == MIT_LCP or _folded(heading) in SECTION_OF or common_name(heading) != "other" for heading in starts
    )


def _without_subheadings(marks: list[re.Match]) -> Iterator[re.Match]:
    """The marks that begin a section: words that are no section's own go on with findings or impression."""
    current = ""
    for mark in marks:
        heading = _heading(mark)
        begins = _folded(heading) in SECTION_OF or _by_word(heading) not in ("", current)
        if begins or current not in BODIES:
            current = common_name(heading)
            yield mark


def common_name(heading: str) -> str:
    """The section that a heading opens: one of HEADINGS."""
    return _by_word(heading) or ("findings" if VIEWS.search(_folded(heading)) else "other")


@functools.lru_cache(maxsize=1024)  # difflib is slow, and headings are few
def _by_word(heading: str) -> str:
    """The section whose word a heading is, or nearly is, or has in it; "" for none."""
    heading = _folded(heading)
    if heading in SECTION_OF:
        return SECTION_OF[heading]
    if close := difflib.get_close_matches(heading, SECTION_OF, 1, TYPED_WRONG):
        return SECTION_OF[close[0]]
    return next((name for name in ("impression", "findings", "comparison") if name in heading), "")


def _folded(heading: str) -> str:
    return " ".join(heading.lower().split())


def select(report: str, policy: Policy | None) -> str:
    """What is taken of the report of whoever must have one: its caption, or all of it, cleaned, without a policy.

    All of it, too, where the policy finds blanks and headings alone.
    """
    cleaned = text.clean(report)
    if policy is None or text.is_empty(cleaned):
        return cleaned
    try:
        return caption(report, policy, collections.Counter())
    except BadInput:
        return cleaned


def caption(report: str | Mapping[str, str], policy: Policy, counts: collections.Counter) -> str:
    """What training reads of a raw report, or of its sections by name; `counts` counts sections and changes.

    Raises BadInput for a report that the policy drops.
    """
    if isinstance(report, str):
        bodies = sections(report, policy.headings)
    else:
        bodies = {name: text.clean(part) for name, part in report.items()}
    bodies = {name: part for name, part in bodies.items() if not text.is_empty(part)}
    parts = {name: bodies[name] for name in policy.order if name in bodies}
    counts.update(f"with {name}" for name in ("impression", "findings") if name in bodies)
    if not parts and policy.empty != "drop":
        whole = text.clean(report) if isinstance(report, str) else " ".join(bodies.values())
        substitute = whole if policy.empty == "whole" else bodies.get("last_paragraph", "")
        parts = {policy.empty: substitute}
        counts[f"{policy.empty} stands in"] += not text.is_empty(substitute)
    if BLANKS.search(" ".join(parts.values())):
        counts[BLANK] += 1
        if policy.blanks == "remove":
            parts = {name: without_blanks(part) for name, part in parts.items()}
    if policy.longest and len(" ".join(parts.values()).split()) > policy.longest:
        counts[CUT] += 1
        parts = shortened(parts, policy.longest)
    joined = " ".join(part for part in parts.values() if part)
    if policy.style == "mgca":
        joined = mgca(joined)
    if text.is_empty(joined):
        raise BadInput("empty_report", "none of the sections to take has words")
    return joined


def without_blanks(part: str) -> str:
    """A text without the marks that replace names and dates."""
    return re.sub(r"\s+([.,;:])", r"\1", " ".join(BLANKS.sub(" ", part).split()))


def shortened(parts: Mapping[str, str], most: int) -> dict[str, str]:
    """Whole sentences of at most `most` words in total, those of the impression first; at least one sentence.

    A first sentence that is too long by itself is cut between words.
    """
    chosen: dict[str, list[str]] = {name: [] for name in parts}
    left = most
    for name in sorted(parts, key=lambda name: name != "impression"):
        for sentence in SENTENCE.split(parts[name]):
            words = sentence.split()
            if len(words) > left:
                if left == most:
                    chosen[name].append(" ".join(words[:most]))
                    left = 0
                break
            chosen[name].append(sentence)
            left -= len(words)
    return {name: " ".join(sentences) for name, sentences in chosen.items()}


def mgca(joined: str) -> str:
    """MGCA's caption: sentences end at dots and numbers of lists, words of letters, digits and `_`, lower case, ASCII.

    Sentences of one word go, and so does a caption of fewer than three (arXiv 2210.06044, its pre-training code).
    """
    words: list[str] = []
    for sentence in NUMBERED.sub(".", joined).split("."):
        own = WORD.findall(sentence.lower())
        if len(own) > 1:
            words += filter(None, (word.encode("ascii", "ignore").decode() for word in own))
    return " ".join(words) if len(words) >= 3 else ""
