"""Cleans report text, finds its sections and its language; every rule here is in the preprocessing contract."""

import html
import re
import unicodedata

RULE = (
    "HTML entities read, Unicode NFC, control and other invisible characters removed, white space folded to single "
    "blanks, ends stripped"
)
NO_REPORT = ("", "nan", "none", "null", "na", "n/a", "nat")

HEADINGS = {
    "findings": ("findings", "finding", "description", "hallazgos", "descripción", "informe"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion", "impresión", "conclusión"),
    "other": (
        "indication", "indications", "history", "clinical history", "clinical information", "technique", "comparison",
        "examination", "exam", "procedure", "recommendation", "wet read", "motivo", "técnica", "comparación", "estudio",
    ),
}  # fmt: skip
SECTION_OF = {word: section for section, words in HEADINGS.items() for word in words}
HEADING = re.compile(
    rf"(?<!\w)({'|'.join(sorted(map(re.escape, SECTION_OF), key=len, reverse=True))})\s*:", re.IGNORECASE
)

# Words that are frequent in reports of one language and absent from the other; "no" is in both.
ENGLISH = (
    "the of and is are with there in was has been to for on at right left lung lungs normal without not seen "
    "evidence heart size chest pleural effusion within limits"
)
SPANISH = (
    "el la los las de del y con sin en se por para que un una al es son derecho derecha izquierdo izquierda "
    "pulmonar pulmonares normales derrame observa observan aprecia tamaño corazón tórax signos"
)
WORDS = {"en": frozenset(ENGLISH.split()), "es": frozenset(SPANISH.split())}
LANGUAGES = (*WORDS, "mixed", "unknown")
MIXED_SHARE, MIXED_WORDS = 0.3, 3


def clean(text: str) -> str:
    """The report as it is stored: one line, NFC, visible characters."""
    text = unicodedata.normalize("NFC", " ".join(html.unescape(text).split()))
    # Cc controls, Cf format characters (byte-order mark, bidi), Co private use, Cs halves of pairs.
    return " ".join("".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs")).split())


def is_empty(text: str) -> bool:
    """Whether a cleaned report says nothing: no letter, or a spreadsheet's word for nothing."""
    return text.lower() in NO_REPORT or not any(c.isalpha() for c in text)


def sections(report: str) -> dict[str, str]:
    """The parts of a cleaned report behind its headings, by their common name; several of one name are joined."""
    marks = list(HEADING.finditer(report))
    found: dict[str, str] = {}
    ends = [mark.start() for mark in marks[1:]] + [len(report)]
    for mark, end in zip(marks, ends, strict=False):
        body = report[mark.end() : end].strip()
        if body:
            name = SECTION_OF[mark[1].lower()]
            found[name] = f"{found[name]} {body}" if name in found else body
    return found


def select(report: str, wanted: tuple[str, ...]) -> str:
    """The wanted sections in their given order; the whole report where it has none of them, or none is wanted."""
    found = sections(report) if wanted else {}
    chosen = " ".join(found[name] for name in wanted if name in found)
    return report if is_empty(chosen) else chosen


def language(report: str) -> str:
    """One of LANGUAGES, by the frequent words of each."""
    words = re.findall(r"[^\W\d_]+", report.lower())
    counts = sorted((sum(word in known for word in words), name) for name, known in WORDS.items())
    (fewer, _), (more, name) = counts
    if not more:
        return "unknown"
    return "mixed" if fewer >= MIXED_WORDS and fewer >= MIXED_SHARE * more else name
