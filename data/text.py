"""Cleans report text; every rule here is in the preprocessing contract."""

import unicodedata

RULE = "Unicode NFC, control and other invisible characters removed, white space folded to single blanks, ends stripped"
NO_REPORT = ("", "nan", "none", "null", "na", "n/a", "nat")


def clean(text: str) -> str:
    """The report as it is stored: one line, NFC, visible characters."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    # Cc controls, Cf format characters (byte-order mark, bidi), Co private use, Cs halves of pairs.
    return " ".join("".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs")).split())


def is_empty(text: str) -> bool:
    """Whether a cleaned report says nothing: no letter, or a spreadsheet's word for nothing."""
    return text.lower() in NO_REPORT or not any(c.isalpha() for c in text)
