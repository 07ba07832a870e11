"""Reports of the phantom: a small grammar that words what the annotations hold in many ways."""

import itertools
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from data.phantom.findings import CARDIOMEGALY, LABELS, NODULE, Lesion

Words = dict[str, Any]  # the sentences of a language
LANGUAGES: dict[str, Words] = {
    path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in sorted(Path(__file__).with_name("words").glob("*.toml"))
}
DENIED_SHARE = 0.6  # of the absent findings that a report mentions
SHORTEST, LONGEST = 15, 60  # words


def size_word(share: float) -> str:
    """Small, moderate or large, by the part of the hemithorax that is filled."""
    return "small" if share < 0.12 else "moderate" if share < 0.28 else "large"


def write_report(
    lesions: list[Lesion], *, modality: str, heart_ratio: float, language: str, rng: np.random.Generator
) -> str:
    """One report of 15 to 60 words: technique, findings in any order, impression.

    `heart_ratio` is the cardiothoracic ratio as the masks show it. The same `rng` state gives
    reports of the same structure in every language.
    """
    words = LANGUAGES[language]
    sentences, concluded = [], []
    for lesion in lesions:
        slots = fill(lesion, words, modality, heart_ratio, rng)
        kind = "nodules" if lesion.label == NODULE and lesion.count > 1 else lesion.label
        options = words["present"][kind]
        sentences.append(pick(options["any"] + options.get(modality, []), rng).format(**slots))
        concluded.append(pick(words["conclude"][kind], rng).format(**slots))
    present = {lesion.label for lesion in lesions}
    sentences += denials([label for label in LABELS if label not in present], words, rng)
    asides = words["aside"]["any"] + words["aside"][modality]
    chosen = list(rng.permutation(len(asides)))
    sentences += [asides[i] for i in chosen[: rng.integers(0, 3)]]
    findings = [sentences[i] for i in rng.permutation(len(sentences))]
    technique = [pick(words["technique"][modality], rng)] if rng.random() < 0.5 else []
    impression = concluded or [pick(words["clean"], rng)]
    heading = words["headings"][rng.integers(len(words["headings"]))]
    spare = iter(asides[i] for i in chosen[2:])
    while len(join(technique, heading, findings, impression).split()) < SHORTEST:
        findings.append(next(spare))
    if len(join(technique, heading, findings, impression).split()) > LONGEST:
        findings = [sentence for sentence in findings if sentence not in asides]
        technique = []
    return join(technique, heading, findings, impression)


def join(technique: list[str], heading: list[str], findings: list[str], impression: list[str]) -> str:
    """One line from the parts of a report."""
    return " ".join(filter(None, [*technique, heading[0], *findings, heading[1], *impression]))


def pick(options: list[str], rng: np.random.Generator) -> str:
    """One of the options, all equally likely."""
    return options[rng.integers(len(options))]


def fill(lesion: Lesion, words: Words, modality: str, ratio: float, rng: np.random.Generator) -> dict[str, str]:
    """The slots of the sentences about one finding."""
    size = pick(words["size"][size_word(lesion.share)], rng)
    side = words["side"].get(lesion.side, "")
    level = ""
    if modality == "xray" and lesion.zone == "middle":
        level = words["levels"]["middle zone"]
    elif lesion.lobe:
        part = lesion.zone if modality == "xray" else lesion.lobe
        level = words["levels"][modality].format(level=words["level"][part])
    rim = words["rim"]["calcified" if lesion.calcified else "solid"]
    return {
        "side": side,
        "side_c": side.capitalize(),
        "level": level,
        "size": size,
        "Size": size.capitalize(),
        "rim": rim,
        "Rim": rim.capitalize(),
        "mm": f"{lesion.size_mm:.0f}",
        "cm": f"{lesion.size_mm / 10:.1f}",
        "share": f"{max(5, 5 * round(20 * lesion.share))}",
        "ratio": f"{ratio:.2f}",
    }


def denials(absent: list[str], words: Words, rng: np.random.Generator) -> list[str]:
    """Sentences that deny a random part of the absent findings, alone or in pairs."""
    chosen = [label for label in absent if rng.random() < DENIED_SHARE]
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    sentences = []
    while chosen:
        label = chosen.pop()
        if rng.random() < (0.7 if label == CARDIOMEGALY else 0.3):
            sentences.append(pick(words["fine"][label], rng))
            continue
        names = [pick(words["absent"][label], rng)]
        if chosen and rng.random() < 0.6:
            names.append(pick(words["absent"][chosen.pop()], rng))
        sentences.append(pick(words["deny"], rng).format(list=words["or"].join(names)))
    return sentences


def prompts(language: str) -> dict[str, dict[str, list[str]]]:
    """For each finding the grammar's own sentences that assert it ("positive") and deny it ("negative").

    They are those that fit X-rays and CTs alike; a sentence that asserts stands there for the right side, with a zone
    of an X-ray, and for the left, with a lobe. Places, sizes and shares take turns, so that none is named much more
    often than another.
    """
    words, rng = LANGUAGES[language], np.random.default_rng(0)  # which draws words of one meaning
    zones, lobes = itertools.cycle(("upper", "middle", "lower")), itertools.cycle(("lower", "upper"))
    diameters, shares = itertools.cycle(range(14, 30, 3)), itertools.cycle((0.05, 0.2, 0.35))
    pairs = {}
    for label in LABELS:
        asserted = []
        for option in words["present"][label]["any"] + words["conclude"][label]:
            for side, modality, levels in (("right", "xray", zones), ("left", "ct", lobes)):
                level = next(levels)
                lesion = Lesion(label, side, np.zeros(0), next(diameters), next(shares), level, level)
                asserted.append(option.format(**fill(lesion, words, modality, rng.uniform(0.55, 0.65), rng)))
        denied = [deny.format(list=noun) for deny in words["deny"] for noun in words["absent"][label]]
        pairs[label] = {
            "positive": list(dict.fromkeys(asserted)),
            "negative": list(dict.fromkeys([*denied, *words["fine"][label]])),
        }
    return pairs
