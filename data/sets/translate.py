"""Translates Spanish reports to English, as the paper does: by a table of your own or a Marian model, with checks.

A model translates sentence by sentence, which keeps it from running on, and each sentence once: a cache holds the
translations by the hashes of model and text. Nothing leaves the machine.
"""

import collections
import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data import plain
from data.errors import UserError
from data.reports import sections, text
from data.sets import dataset_index

NEEDED = "pip install -r requirements-translate.txt"
FILES = ["*.json", "*.spm", "model.safetensors", "pytorch_model.bin"]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BATCH = 16
NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
LENGTH_RATIO = (0.5, 2.0)  # plausible English words over Spanish words
FEW_WORDS = 4  # ratios of shorter sentences say nothing
NEGATIONS = {
    "es": "no sin ni niega niegan ausencia ausente ausentes descarta descartan descartar tampoco nunca ningún ninguna "
    "ninguno negativo negativa",
    "en": "no not without nor neither denies deny absence absent never none negative cannot excluded exclude out",
}
NEGATES = {language: frozenset(words.split()) for language, words in NEGATIONS.items()}
COLUMNS = ("report_id", "doubts", "chrf", "source", "english", "back")


def doubts(source: str, english: str) -> list[str]:
    """Which of length, numbers and negation differ between a sentence and its translation."""
    differences = []
    spanish_words, english_words = (re.findall(r"\w+", one.lower()) for one in (source, english))
    low, high = LENGTH_RATIO
    ratio = len(english_words) / max(len(spanish_words), 1)
    if not english_words or (len(spanish_words) >= FEW_WORDS and not low <= ratio <= high):
        differences.append("length")
    numbers = [sorted(number.replace(",", ".") for number in NUMBER.findall(one)) for one in (source, english)]
    if numbers[0] != numbers[1]:
        differences.append("numbers")
    if NEGATES["es"].isdisjoint(spanish_words) != NEGATES["en"].isdisjoint(english_words):
        differences.append("negation")
    return differences


class Table:
    """The user's own translations: a CSV with the columns `report_id` and `english`."""

    def __init__(self, path: Path) -> None:
        """Raises UserError for a file that is no such CSV, or names a report twice."""
        rows = dataset_index.table(path.parent, path.name, ("report_id", "english"))
        self._english = {row["report_id"]: text.clean(row["english"]) for row in rows}
        if len(self._english) < len(rows):
            raise UserError(f"{path} names {len(rows) - len(self._english)} reports more than once")
        self.facts: dict[str, Any] = {"table_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def __call__(self, reports: Sequence[tuple[str, str]]) -> list[str]:
        """The English of (id, text) reports, empty where the table has none."""
        translated = [self._english.get(name, "") for name, _ in reports]
        pairs = [(source, english) for (_, source), english in zip(reports, translated, strict=True) if english]
        counts = collections.Counter(doubt for pair in pairs for doubt in doubts(*pair))
        self.facts |= {"missing": translated.count(""), "doubtful": dict(sorted(counts.items()))}
        return translated


class Marian:
    """A Marian model, folder or hub id; `back` names one that translates back, to compare with the original (chrF)."""

    def __init__(self, name: str, back: str, cache: Path, page: Path, *, drop_doubtful: bool) -> None:
        """`cache` is a folder, `page` the CSV for a bilingual reader; both will hold report text."""
        self._forth = sentences_by(name, cache)
        self._back = sentences_by(back, cache) if back else None
        self._page, self._drop = page, drop_doubtful
        self.facts: dict[str, Any] = {"model": facts_of(name)}
        if back:
            self.facts["back"] = facts_of(back)

    def __call__(self, reports: Sequence[tuple[str, str]]) -> list[str]:
        """The English of (id, text) reports; empty for a report with a doubtful sentence, if these are dropped."""
        parts = [sections.SENTENCE.split(source) for _, source in reports]
        first: dict[str, str] = {}  # sentence -> the first report that has it
        for (name, _), part in zip(reports, parts, strict=True):
            for sentence in part:
                first.setdefault(sentence, name)
        unique = list(first)
        english = dict(zip(unique, self._forth(unique), strict=True))
        backs = dict(zip(unique, self._back(list(english.values())), strict=True)) if self._back else {}
        doubtful = {sentence: doubts(sentence, translated) for sentence, translated in english.items()}
        scores = {sentence: _chrf(back, sentence) for sentence, back in backs.items()}
        counts = collections.Counter(itertools.chain.from_iterable(doubtful.values()))
        self.facts |= {"sentences": len(unique), "doubtful": dict(sorted(counts.items()))}
        if scores:
            self.facts["chrf_mean"] = round(sum(scores.values()) / len(scores), 2)
        self._write(
            [
                (first[one], " ".join(doubtful[one]), scores.get(one, ""), one, english[one], backs.get(one, ""))
                for one in sorted(unique, key=lambda one: (not doubtful[one], scores.get(one, 0.0)))
            ]
        )
        return [
            "" if self._drop and any(map(doubtful.get, part)) else " ".join(english[sentence] for sentence in part)
            for part in parts
        ]

    def _write(self, rows: Sequence[Sequence[Any]]) -> None:
        self._page.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(_private(self._page, os.O_TRUNC), "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *([*map(plain.cell, row)] for row in rows)])


def sentences_by(name: str, cache: Path) -> Callable[[Sequence[str]], list[str]]:
    """A function that translates sentences with a model, each only once ever."""
    folder = _folder(name)
    cache_file = cache / f"{_sha256(folder)[:16]}.jsonl"
    model: list[Any] = []  # loaded when the first sentence is new

    def translate(sentences: Sequence[str]) -> list[str]:
        known = _read(cache_file)
        fresh = [one for one in dict.fromkeys(sentences) if _key(one) not in known]
        fresh.sort(key=len)  # sentences of one length share a batch
        for start in range(0, len(fresh), BATCH):
            model[:] = model or _load(folder)
            part = fresh[start : start + BATCH]
            translated = dict(zip(map(_key, part), _generate(*model, part), strict=True))
            cache.mkdir(parents=True, exist_ok=True)
            with os.fdopen(_private(cache_file, os.O_APPEND), "a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in translated.items())
            known |= translated
        return [known[_key(one)] for one in sentences]

    return translate


def facts_of(name: str) -> dict[str, str]:
    """A model's provenance: its name and the hash of its weights."""
    return {"name": name if not Path(name).is_dir() else Path(name).name, "sha256": _sha256(_folder(name))}


def _folder(name: str) -> Path:
    """The folder of a model; of a hub id, its copy in the hub's cache. Raises UserError."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        import huggingface_hub

        try:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=FILES))
        except Exception as error:  # no network, no such name, no right: all in the hub's own words
            why = str(error).strip().splitlines()[0][:160]
            raise UserError(f"the model {name!r} is not a folder, and the hub does not give it: {why}") from error
    if not any((folder / weights).exists() for weights in WEIGHTS):
        raise UserError(f"{folder} holds no {' or '.join(WEIGHTS)}")
    return folder


def _sha256(folder: Path) -> str:
    path = next(folder / weights for weights in WEIGHTS if (folder / weights).exists())
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load(folder: Path) -> list[Any]:
    try:
        from transformers import MarianMTModel, MarianTokenizer

        return [MarianTokenizer.from_pretrained(str(folder)), MarianMTModel.from_pretrained(str(folder)).eval()]
    except ImportError as error:
        raise UserError(f"translating needs packages that are not installed: {NEEDED}") from error
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{folder} holds no Marian model that can be read ({type(error).__name__})") from error


def _generate(tokenizer: Any, model: Any, sentences: Sequence[str]) -> list[str]:
    tokens = tokenizer(list(sentences), return_tensors="pt", padding=True, truncation=True)
    # Bounds a model that runs on.
    longest = min(2 * tokens["input_ids"].shape[1] + 20, model.config.max_position_embeddings)
    tokens_out = model.generate(**tokens, max_length=longest, num_return_sequences=1, do_sample=False)
    return [text.clean(one) for one in tokenizer.batch_decode(tokens_out, skip_special_tokens=True)]


def _chrf(back: str, source: str) -> float:
    try:
        from sacrebleu import sentence_chrf
    except ImportError as error:
        raise UserError(f"config.report.back_translator needs sacrebleu: {NEEDED}") from error
    return round(sentence_chrf(back, [source]).score, 1)


def _key(sentence: str) -> str:
    return hashlib.sha256(sentence.encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """What a cache holds, without a last line that was cut short by a kill."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            key, value = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(key, str) and isinstance(value, str):
            known[key] = value
    return known


def _private(path: Path, how: int) -> int:
    """Opens a file that only its owner can read."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
