"""Cleans report text and finds its language; every rule here is in the preprocessing contract."""

import html
import html.entities
import re
import unicodedata

from data.errors import UserError

RULE = (
    "HTML entities with their semicolon read, Unicode NFC, control and other invisible characters removed, white space "
    "folded to single blanks, ends stripped"
)
NO_REPORT = (
    "nan, none, null, na, n/a, nat, not given, not provided, not available, not specified, not applicable, no report, "
    "no findings given, no impression given, no disponible, no consta, sin informe"
)
NOTHING = frozenset(("", *NO_REPORT.split(", ")))

# Words that are frequent in reports of one language and absent from the other; "no" is in both. Compared with
# lingua 2.1 and py3langid 0.4 on 5,077 real texts (tests/data/reports): these words are never wrong and leave only the
# tersest unknown; the libraries name every text and are wrong for a few impressions such as "No acute disease."
ENGLISH = (
    "the of and is are with there in was has been to for on at right left lung lungs normal without not seen "
    "evidence heart size chest pleural effusion within limits acute cardiopulmonary disease process abnormality "
    "abnormalities findings stable change"
)
SPANISH = (
    "el la los las de del y con sin en se por para que un una al es son derecho derecha izquierdo izquierda "
    "pulmonar pulmonares normales derrame observa observan aprecia tamaño corazón tórax signos"
)
WORDS = {"en": frozenset(ENGLISH.split()), "es": frozenset(SPANISH.split())}
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]*);")
LANGUAGES = (*WORDS, "mixed", "unknown")
MIXED_SHARE, MIXED_WORDS = 0.3, 3


def clean(text: str) -> str:
    """The report as it is stored: one line, NFC, visible characters."""
    text = unicodedata.normalize("NFC", " ".join(ENTITY.sub(_character, text).split()))
    if text.isprintable():  # and so without any of these
        return text
    # Cc controls, Cf format characters (byte-order mark, bidi), Co private use, Cs halves of pairs.
    return " ".join("".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs")).split())


def _character(entity: re.Match) -> str:
    """What an entity stands for. HTML reads some names without a semicolon, too; in "RT&LT lobes" they are words."""
    known = entity[0][1] == "#" or entity[0][1:] in html.entities.html5
    return html.unescape(entity[0]) if known else entity[0]


def is_nothing(text: str) -> bool:
    """Whether a cleaned text is blank, or what spreadsheets, pandas and people write for nothing."""
    return text.lower().strip(" .:-") in NOTHING


def is_empty(text: str) -> bool:
    """Whether a cleaned report is empty: no letter, or a word for nothing."""
    return is_nothing(text) or not any(c.isalpha() for c in text)


def check_language(key: str, value: str) -> None:
    """Raises UserError for a value of the config key that is neither empty nor a language that is known here."""
    if value not in ("", *WORDS):
        raise UserError(f"config.{key} is {value!r}: {' or '.join(WORDS)}, or empty for all")


def language(report: str) -> str:
    """One of LANGUAGES, by the frequent words of each."""
    words = re.findall(r"[^\W\d_]+", report.lower())
    counts = sorted((sum(word in known for word in words), name) for name, known in WORDS.items())
    (fewer, _), (more, name) = counts
    if not more:
        return "unknown"
    return "mixed" if fewer >= MIXED_WORDS and fewer >= MIXED_SHARE * more else name
