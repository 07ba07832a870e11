"""Figures published by the authors of UniMedI and of its baselines, shown beside measured ones and never among them.

UniMedI's come from the authors' replies in the review thread of arXiv 2311.14851, the baselines from the same tables.
All are in per cent and on real patients.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unimedi_jax.report.content import Cell, Row, Table

VIT, DICE = "MGCA, ViT-B", "segmentation, Dice"
FEW = (0.01, 0.1, 1.0)  # of the labels
LINEAR = ("linear probe", "xray")
BOXES = ("segmentation of boxes, frozen encoder", "xray")
DETECTION = ("detection, frozen encoder", "xray")
ORGANS = ("segmentation of organs, fine-tuned", "ct")


class Published(NamedTuple):
    """Figures on one set for some shares of its labels; `job` and `metric` name our number that states the same."""

    data: str
    what: str
    job: tuple[str, str]  # task and modality
    metric: str
    shares: Sequence[float]
    unimedi: Sequence[float]
    baseline: Sequence[float]
    baseline_name: str


TABLE = (
    Published("covidx", "linear, accuracy", LINEAR, "accuracy/macro", FEW, (80.3, 92.4, 94.6), (74.8, 84.8, 92.3), VIT),
    Published("covidx", "linear, AUC", LINEAR, "auroc/macro", FEW, (93.5, 98.1, 98.1), (89.0, 97.0, 97.9), VIT),
    Published("chexpert", "linear, AUC", LINEAR, "auroc/macro", (1.0,), (90.5,), (84.9,), "MoCo v2"),
    Published("rsna", DICE, BOXES, "dice/mean", FEW, (67.8, 73.1, 75.3), (66.2, 71.3, 73.6), "MGCA"),
    Published("rsna", "detection, mAP", DETECTION, "map_mgca", FEW, (15.5, 19.2, 26.6), (14.7, 18.4, 25.8), VIT),
    Published("amos22", DICE, ORGANS, "dice/mean", (0.2, 0.4, 1.0), (78.8, 82.9, 86.4), (79.5, 82.3, 85.8), "UniMiSS"),
    Published("btcv", DICE, ORGANS, "dice/mean", (1.0,), (85.4,), (82.61,), "DINO"),
)


def table(measured: Mapping[str, float]) -> tuple[Table, dict[str, float]]:
    """The published table and the scalars it looks up; `measured` are our numbers by their keys, shares in [0, 1].

    Our column stands for sets of the same name alone: a phantom's number says nothing beside a patient's.
    """
    scalars, rows = {}, []
    for entry in TABLE:
        task, modality = entry.job
        for share, unimedi, baseline in zip(entry.shares, entry.unimedi, entry.baseline, strict=True):
            start = f"published/{entry.data}/{entry.what}/{share:g}"
            scalars |= {f"{start}/unimedi": unimedi, f"{start}/baseline": baseline}
            ours = f"trained/{task}/{entry.data}/{modality}/{share:g}/{entry.metric}"
            if ours in measured:
                scalars[f"{start}/ours"] = 100 * measured[ours]
            cells = [Cell(f"{start}/{column}", digits=1) for column in ("unimedi", "baseline", "ours")]
            rows.append(Row(f"{entry.data}, {entry.what}, {share:.0%} ({entry.baseline_name})", cells))
    columns = ("", "UniMedI, published", "Other, published", "Ours, measured")
    note = (
        "Published by their authors on real patients and not measured here, in per cent; the method of the second "
        "column is named in brackets. The last column is our own measurement, where a built set of that name was "
        "evaluated."
    )
    return Table("Published figures", columns, rows, note), scalars


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
