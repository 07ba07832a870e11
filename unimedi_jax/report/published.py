"""Figures that the authors of UniMedI and of its baselines published, to stand beside measured ones, never among them.

UniMedI's come from the authors' replies in the review thread of arXiv 2311.14851, the baselines from the same tables.
All are per cent and on real patients.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unimedi_jax.report.content import Cell, Row, Table


class Published(NamedTuple):
    """One figure, and the measured number of ours that states the same where the set of that name is at hand."""

    data: str
    what: str
    share: float
    unimedi: float
    baseline: float | None
    baseline_name: str
    task: str
    modality: str
    metric: str


def _shares(
    shares: Sequence[float], unimedi: Sequence[float], baseline: Sequence[float], **rest: str
) -> list[Published]:
    return [
        Published(share=share, unimedi=ours, baseline=theirs, **rest)
        for share, ours, theirs in zip(shares, unimedi, baseline, strict=True)
    ]


MGCA, FEW = "MGCA, ViT-B", (0.01, 0.1, 1.0)
_LINEAR = dict(task="linear probe", modality="xray")
_BOXES = dict(task="segmentation of boxes, frozen encoder", modality="xray", metric="dice/mean")
_ORGANS = dict(task="segmentation of organs, fine-tuned", modality="ct", metric="dice/mean")
TABLE = (
    *_shares(
        FEW,
        (80.3, 92.4, 94.6),
        (74.8, 84.8, 92.3),
        data="covidx",
        what="linear, accuracy",
        baseline_name=MGCA,
        metric="accuracy/macro",
        **_LINEAR,
    ),
    *_shares(
        FEW,
        (93.5, 98.1, 98.1),
        (89.0, 97.0, 97.9),
        data="covidx",
        what="linear, AUC",
        baseline_name=MGCA,
        metric="auroc/macro",
        **_LINEAR,
    ),
    Published("chexpert", "linear, AUC", 1.0, 90.5, 84.9, "MoCo v2", metric="auroc/macro", **_LINEAR),
    *_shares(
        FEW,
        (67.8, 73.1, 75.3),
        (66.2, 71.3, 73.6),
        data="rsna",
        what="segmentation, Dice",
        baseline_name="MGCA",
        **_BOXES,
    ),
    *_shares(
        FEW,
        (15.5, 19.2, 26.6),
        (14.7, 18.4, 25.8),
        data="rsna",
        what="detection, mAP",
        baseline_name=MGCA,
        modality="xray",
        task="detection, frozen encoder",
        metric="map_mgca",
    ),
    *_shares(
        (0.2, 0.4, 1.0),
        (78.8, 82.9, 86.4),
        (79.5, 82.3, 85.8),
        data="amos22",
        what="segmentation, Dice",
        baseline_name="UniMiSS",
        **_ORGANS,
    ),
    Published("btcv", "segmentation, Dice", 1.0, 85.4, 82.61, "DINO", **_ORGANS),
)


def table(measured: Mapping[str, float]) -> tuple[Table, dict[str, float]]:
    """The published table and the scalars it looks up; `measured` are our numbers by their keys, shares in [0, 1].

    Our column stands for sets of the same name alone: a phantom's number says nothing beside a patient's.
    """
    scalars, rows = {}, []
    for entry in TABLE:
        start = f"published/{entry.data}/{entry.what}/{entry.share:g}"
        scalars[f"{start}/unimedi"] = entry.unimedi
        cells = [Cell(f"{start}/unimedi", digits=1)]
        if entry.baseline is not None:
            scalars[f"{start}/baseline"] = entry.baseline
        cells.append(Cell(f"{start}/baseline", digits=1))
        ours = f"trained/{entry.task}/{entry.data}/{entry.modality}/{entry.share:g}/{entry.metric}"
        if ours in measured:
            scalars[f"{start}/ours"] = 100 * measured[ours]
        cells.append(Cell(f"{start}/ours", digits=1))
        rows.append(Row(f"{entry.data}, {entry.what}, {entry.share:.0%} ({entry.baseline_name})", cells))
    note = (
        "Published by their authors on real patients and not measured here, per cent; in brackets the method of the "
        "second column. The last column is ours, measured, where a built set of that name was evaluated."
    )
    return Table(
        "Published figures", ("", "UniMedI, published", "Other, published", "Ours, measured"), rows, note
    ), scalars


class Elsewhere(NamedTuple):
    """A method of another architecture, which is not built here, and what was published of it on sets of TABLE."""

    name: str
    what: str
    chexpert: float | None = None  # AUC, whole network fine-tuned on all labels, as quoted by UniMedI's authors
    btcv: float | None = None  # Dice, as reported by its own authors' code


# Those that the reviewers or the authors of UniMedI named; most have no figure there on any of these sets.
OTHERS = (
    Elsewhere("SwinUNETR", "3D Swin transformer with a U-Net's decoder", btcv=82.25),
    Elsewhere("nnU-Net", "U-Net that its data configure, from scratch"),
    Elsewhere("DiRA", "U-Net on a ResNet-50, self-supervised", chexpert=87.59),
    Elsewhere("PCRLv2", "self-supervised on films and CTs"),
    Elsewhere("SAM", "self-supervised anatomical embeddings (Yan et al.), separate for films and CTs"),
    Elsewhere("Med3D", "3D ResNets, to transfer from"),
    Elsewhere("Alice", "self-supervised on CTs"),
)


def others() -> tuple[Table, dict[str, float]]:
    """The table of other architectures and the scalars it looks up: none of it was measured here."""
    scalars, rows = {}, []
    for entry in OTHERS:
        figures = {"chexpert": entry.chexpert, "btcv": entry.btcv}
        keys = {data: f"published/elsewhere/{entry.name}/{data}" for data in figures}
        scalars |= {keys[data]: figure for data, figure in figures.items() if figure is not None}
        rows.append(Row(f"{entry.name}: {entry.what}", [Cell(key, digits=2) for key in keys.values()]))
    note = (
        "Published, on real patients, each by a protocol of its own, per cent; nothing here was measured by us, and no "
        "figure is to be held against those above. CheXpert: fine-tuned, as the authors of UniMedI quote it. BTCV: the "
        "best that SwinUNETR's repository reports. A dash: no figure at hand on these sets."
    )
    columns = ("", "CheXpert AUC, published", "BTCV Dice, published")
    return Table("Other architectures, published figures only", columns, rows, note), scalars
