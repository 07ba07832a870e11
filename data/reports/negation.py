"""Reports that say the opposite: denied findings asserted and asserted ones denied, by rules for English and Spanish.

Training takes them as negatives of their own images (arXiv 2505.22079, 2501.14548). The word lists are words/*.toml.
A sentence without a finding, or in doubt, stays as it is.
"""

import dataclasses
import functools
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from data.reports import text

PIECE = re.compile(r"(?<=[.!?:;])\s+(?=\S)")  # headings are pieces of their own
CLAUSE = r"[^.,;:!?]*?"  # up to the next punctuation


@dataclasses.dataclass(frozen=True)
class Rules:
    """The patterns of a language, compiled."""

    finding: re.Pattern
    hedge: re.Pattern
    opposites: tuple[tuple[re.Pattern, str], ...]
    denials: tuple[tuple[re.Pattern, str], ...]
    lists: tuple[tuple[re.Pattern, str], ...]
    assertions: tuple[tuple[re.Pattern, str], ...]
    numeral: re.Pattern
    preposition: re.Pattern
    no: str


@functools.cache
def rules(language: str) -> Rules:
    """The rules of "en" or "es"."""
    words = tomllib.loads((Path(__file__).with_name("words") / f"{language}.toml").read_text(encoding="utf-8"))
    finding, hedge = (_beginnings(words[name]) for name in ("findings", "hedges"))
    pairs = [pair for one, other in words["opposites"] for pair in ((one, other), (other, one))]
    ahead = [(rf"{pattern}(?={CLAUSE}{finding})", replacement) for pattern, replacement in words["denials"]]
    behind, replacement = words["denials_behind"]
    return Rules(
        re.compile(finding, re.IGNORECASE),
        re.compile(hedge, re.IGNORECASE),
        _compiled((rf"\b{re.escape(one)}\b", other) for one, other in pairs),
        _compiled([(behind, replacement), *ahead]),
        _compiled(words["lists"]),
        _compiled(words["assertions"]),
        *(re.compile(rf"^(?:{words[name]})", re.IGNORECASE) for name in ("numerals", "prepositions")),
        words["no"],
    )


def flip(report: str) -> str:
    """The report with every sentence turned into its opposite that the rules can turn; else the same text."""
    main = text.language(report)
    return " ".join(flip_sentence(piece, main) for piece in PIECE.split(report))


def flip_sentence(sentence: str, main: str = "unknown") -> str:
    """One sentence, or heading, turned. `main`: the language of its report, for findings that both languages know."""
    for language in text.WORDS:
        if turned := _first(rules(language).opposites, sentence):
            return turned
    known = [language for language in text.WORDS if rules(language).finding.search(sentence)]
    if not known:
        return sentence
    own = rules(main if main in known else known[0])
    if own.hedge.search(sentence) or "?" in sentence:
        return sentence
    if turned := _first(own.denials, sentence, every=True):
        return _every(own.lists, turned)
    return _first(own.assertions, sentence) or _denied(sentence, own)


def _denied(phrase: str, own: Rules) -> str:
    """A noun without a verb: "Small effusion." becomes "No small effusion."; what does not begin with it stays."""
    if not phrase[0].isalpha() or own.preposition.search(phrase):
        return phrase
    no = own.no.capitalize() if phrase[0].isupper() else own.no
    return f"{no} {_uncapitalised(own.numeral.sub('', phrase))}"


def _uncapitalised(phrase: str) -> str:
    """It begins with a small letter; an abbreviation stays in capitals."""
    return phrase if phrase[:2].isupper() else phrase[:1].lower() + phrase[1:]


def _beginnings(words: str) -> str:
    """A pattern for any of the words, or of longer ones that begin alike."""
    return rf"\b(?:{'|'.join(re.escape(word) for word in shlex.split(words))})"


def _compiled(pairs: Any) -> tuple[tuple[re.Pattern, str], ...]:
    return tuple((re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in pairs)


def _first(pairs: tuple[tuple[re.Pattern, str], ...], sentence: str, *, every: bool = False) -> str:
    """The sentence after the first pair that occurs in it, once or at every place; empty if none does.

    It begins with a capital where it did before.
    """
    begins = _uncapitalised(sentence)
    for pattern, replacement in pairs:
        turned, count = pattern.subn(replacement, begins, count=0 if every else 1)
        if count:
            return turned[:1].upper() + turned[1:] if sentence[:1].isupper() else turned
    return ""


def _every(pairs: tuple[tuple[re.Pattern, str], ...], sentence: str) -> str:
    for pattern, replacement in pairs:
        sentence = pattern.sub(replacement, sentence)
    return sentence
