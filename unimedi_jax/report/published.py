"""Figures published by the authors of UniMedI and of its baselines, shown beside measured ones and never among them.

UniMedI's come from the authors' replies in the review thread of arXiv 2311.14851, the baselines from the same tables.
All are in per cent and on real patients.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from unimedi_jax.config import public_sets
from unimedi_jax.report.content import Cell, Row, Table

VIT, DICE = "MGCA, ViT-B", "segmentation, Dice"
FEW = (0.01, 0.1, 1.0)  # of the labels
# How a row compares with the published one: C comparable; c close, with a difference that is named; N not comparable.
COMPARABLE, CLOSE, NOT = "C", "c", "N"
MGCA = ", MGCA's protocol"  # how the names of tasks end that follow it
CHANGED = " with other settings"  # and how those end whose settings are not those of their protocol
# Of configs/build.py, beside its defaults: what makes a set the published one (docs/protocols.md).
OPTIONS = {"chexpert": {"split": "mgca"}, "covidx": {"split": "mgca"}, "rsna": {"greys": "largest"}}


class Way(NamedTuple):
    """A task of ours that states the same number, and how it differs from the published protocol."""

    task: str
    marks: Sequence[str]  # by share, of COMPARABLE, CLOSE, NOT
    difference: str


LINEAR = (
    Way("linear probe", (NOT, NOT, CLOSE), "the optimum of a regularised classifier on features computed once; draws"),
    Way(f"linear probe{MGCA}", (CLOSE,) * 3, "the stream of random numbers"),
)
BOXES = (
    Way("segmentation of boxes, frozen encoder", (CLOSE,) * 3, "best epoch by Dice; Dice at 256 pixels; draws"),
    Way(f"segmentation of boxes, frozen encoder{MGCA}", (CLOSE,) * 3, "records of 256 pixels"),
)
DETECTION = (
    Way("detection, frozen encoder", (CLOSE,) * 3, "loss, score and best epoch of ours; draws"),
    Way(f"detection, frozen encoder{MGCA}", (CLOSE,) * 3, "a pyramid of a ViT's map"),
)
ORGANS = (
    Way("segmentation of organs, fine-tuned", (NOT,) * 3, "whole scans on a coarse grid, few steps, no augmentation"),
    Way(
        "segmentation of organs, fine-tuned, UNETR's protocol",
        (CLOSE,) * 3,
        "no mirroring; windows blended by a Gaussian; Dice on the file's voxels",
    ),
    Way(
        "segmentation of organs, fine-tuned, VoCo's protocol",
        (CLOSE,) * 3,
        "UNETR's decoder; no mirroring; windows blended by a Gaussian; Dice on the file's voxels",
    ),
)


class Evaluated(NamedTuple):
    """What decides whether our numbers may stand beside published ones."""

    contracts: Mapping[str, Mapping[str, Any]]  # of the evaluated sets, by name
    changed: Collection[str] = ()  # tasks of our own recipe with other settings than docs/protocols.md compares


class Published(NamedTuple):
    """Figures on one set for some shares of its labels; `ways` and `metric` name our numbers that state the same."""

    data: str
    what: str
    ways: Sequence[Way]
    modality: str
    metric: str
    shares: Sequence[float]
    unimedi: Sequence[float]
    baseline: Sequence[float]
    baseline_name: str

    def mark(self, way: Way, share: float, evaluated: Evaluated) -> str:
        """How a way of ours compares at a share of the labels."""
        if way.task in evaluated.changed or not self._is_of(evaluated.contracts.get(self.data, {})):
            return NOT
        return way.marks[-1] if share == 1 else way.marks[min(self.shares.index(share), len(way.marks) - 1)]

    def _is_of(self, contract: Mapping[str, Any]) -> bool:
        """Whether this is the contract of the set as it was published on: of its kind, built with its options."""
        source = contract.get("source", {})
        defaults = dataclasses.asdict(public_sets.OPTIONS[self.data])
        built = defaults | source.get("options", {})  # which names a later option only where it is no default
        return source.get("kind") == self.data and built == defaults | OPTIONS.get(self.data, {})


X, CT = "xray", "ct"
TABLE = (
    Published(
        "covidx", "linear, accuracy", LINEAR, X, "accuracy/macro", FEW, (80.3, 92.4, 94.6), (74.8, 84.8, 92.3), VIT
    ),
    Published("covidx", "linear, AUC", LINEAR, X, "auroc/macro", FEW, (93.5, 98.1, 98.1), (89.0, 97.0, 97.9), VIT),
    Published("chexpert", "linear, AUC", LINEAR, X, "auroc/macro", (1.0,), (90.5,), (84.9,), "MoCo v2"),
    Published("rsna", DICE, BOXES, X, "dice/mean", FEW, (67.8, 73.1, 75.3), (66.2, 71.3, 73.6), "MGCA"),
    Published("rsna", "detection, mAP", DETECTION, X, "map_mgca", FEW, (15.5, 19.2, 26.6), (14.7, 18.4, 25.8), VIT),
    Published(
        "amos22", DICE, ORGANS, CT, "dice/mean", (0.2, 0.4, 1.0), (78.8, 82.9, 86.4), (79.5, 82.3, 85.8), "UniMiSS"
    ),
    Published("btcv", DICE, ORGANS, CT, "dice/mean", (1.0,), (85.4,), (82.61,), "DINO"),
)


def mark(data: str, task: str, share: float, evaluated: Evaluated) -> str:
    """How rows of a task on a set compare with what is published of it; "" where nothing is."""
    marks = [
        entry.mark(way, share, evaluated) if way.task == task else NOT
        for entry in TABLE
        for way in entry.ways
        if (entry.data, way.task) == (data, task.removesuffix(CHANGED)) and share in entry.shares
    ]
    return marks[0] if marks else ""


def table(measured: Mapping[str, float], evaluated: Evaluated) -> tuple[Table, dict[str, float]]:
    """The published table and the scalars it looks up; `measured` are our numbers by their keys, shares in [0, 1].

    Our column stands for sets of the same name and kind alone, since a phantom's number says nothing beside a
    patient's, and only where the protocol is comparable or close: every such way has a row of its own.
    """
    scalars, rows, ways = {}, [], {}
    for entry in TABLE:
        for share, unimedi, baseline in zip(entry.shares, entry.unimedi, entry.baseline, strict=True):
            start = f"published/{entry.data}/{entry.what}/{share:g}"
            scalars |= {f"{start}/unimedi": unimedi, f"{start}/baseline": baseline}
            name = f"{entry.data}, {entry.what}, {share:.0%} ({entry.baseline_name})"
            theirs = [Cell(f"{start}/{column}", digits=1) for column in ("unimedi", "baseline")]
            beside = _beside(entry, share, measured, evaluated)
            for way, value in beside.items():
                scalars[f"{start}/{way.task}/ours"] = 100 * value
                ways[way.task] = way
                cells = [*theirs, Cell(f"{start}/{way.task}/ours", digits=1)]
                rows.append(Row(f"{name}; {entry.mark(way, share, evaluated)}: {way.task}", cells))
            if not beside:
                rows.append(Row(name + _not_comparable(entry, share, measured), [*theirs, None]))
    columns = ("", "UniMedI, published", "Other, published", "Ours, measured")
    differences = "; ".join(f"{way.task}: {way.difference}" for way in ways.values())
    note = (
        "Published by their authors on real patients and not measured here, in per cent; the method of the second "
        "column is named in brackets. The last column is our own measurement, where a set of that name, built with "
        "the published options, was evaluated by a protocol that is comparable (C) or close (c); what is not (N) has "
        "no number there. "
        "docs/protocols.md compares them row by row." + (f" What differs: {differences}." if differences else "")
    )
    return Table("Published figures", columns, rows, note), scalars


def _key(entry: Published, way: Way, share: float) -> str:
    return f"trained/{way.task}/{entry.data}/{entry.modality}/{share:g}/{entry.metric}"


def _beside(entry: Published, share: float, measured: Mapping[str, float], evaluated: Evaluated) -> dict[Way, float]:
    """What may stand beside a published figure."""
    keys = {way: _key(entry, way, share) for way in entry.ways if entry.mark(way, share, evaluated) != NOT}
    return {way: measured[key] for way, key in keys.items() if key in measured}


def _not_comparable(entry: Published, share: float, measured: Mapping[str, float]) -> str:
    """Says so where we have a number, but not by the published protocol."""
    tasks = [way._replace(task=way.task + end) for way in entry.ways for end in ("", CHANGED)]
    has = any(_key(entry, way, share) in measured for way in tasks)
    return f"; {NOT}: ours is not the published protocol" if has else ""


class Elsewhere(NamedTuple):
    """A method of another architecture, not implemented here, and its published figures on sets of TABLE."""

    name: str
    what: str
    chexpert: float | None = None  # AUC, whole network fine-tuned on all labels, as quoted by the authors of UniMedI
    btcv: float | None = None  # Dice, as reported in the repository of its authors


# Methods named by the reviewers or the authors of UniMedI; for most of them neither quotes a figure on these sets.
OTHERS = (
    Elsewhere("SwinUNETR", "3D Swin transformer with a U-Net's decoder", btcv=82.25),
    Elsewhere("nnU-Net", "U-Net that configures itself from the data, from scratch"),
    Elsewhere("DiRA", "U-Net on a ResNet-50, self-supervised", chexpert=87.59),
    Elsewhere("PCRLv2", "self-supervised on X-rays and CTs"),
    Elsewhere("SAM", "self-supervised anatomical embeddings (Yan et al.), separate for X-rays and CTs"),
    Elsewhere("Med3D", "3D ResNets for transfer learning"),
    Elsewhere("Alice", "self-supervised on CTs"),
)


def others() -> tuple[Table, dict[str, float]]:
    """The table of other architectures and the scalars it looks up; none of them was measured here."""
    scalars, rows = {}, []
    for entry in OTHERS:
        figures = {"chexpert": entry.chexpert, "btcv": entry.btcv}
        keys = {data: f"published/elsewhere/{entry.name}/{data}" for data in figures}
        scalars |= {keys[data]: figure for data, figure in figures.items() if figure is not None}
        rows.append(Row(f"{entry.name}: {entry.what}", [Cell(key, digits=2) for key in keys.values()]))
    note = (
        "Published on real patients, each by a protocol of its own, in per cent; nothing here was measured by us, and "
        "the figures must not be compared with those above. CheXpert: fine-tuned, as quoted by the authors of UniMedI. "
        "BTCV: the best that SwinUNETR's repository reports. A dash: no figure was at hand for these sets."
    )
    columns = ("", "CheXpert AUC, published", "BTCV Dice, published")
    return Table("Other architectures, published figures only", columns, rows, note), scalars
