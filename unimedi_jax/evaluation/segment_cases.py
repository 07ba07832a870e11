"""What segmentation is of: the annotated cases of a set, the names of its structures, and those of its rows."""

import re
from collections.abc import Mapping
from typing import Any

from data import progress
from unimedi_jax.config.jobs import IN_CROPS, SegmentConfig
from unimedi_jax.evaluation import trials
from unimedi_jax.input import dense, records

TUNES = {"frozen": "frozen encoder", "full": "fine-tuned"}


def task_name(target: str, tune: str, protocol: str | SegmentConfig = "ours") -> str:
    """The task of the results for a target, a way of tuning and a protocol; of changed settings under its own name."""
    if isinstance(protocol, str):
        return f"segmentation of {target}, {TUNES[tune]}{trials.PUBLISHED[protocol]}"
    end = trials.of_protocol(protocol.protocol, changed=_changed(protocol))
    return f"segmentation of {target}, {TUNES[tune]}{trials.in_part(tune, protocol.trainable)}{end}"


def _changed(config: SegmentConfig) -> bool:
    """Whether a protocol is followed with other settings than its own."""
    if config.protocol in IN_CROPS:
        recipe = getattr(SegmentConfig, config.protocol)
        return config.crops != recipe or trials.changed(config, "limit", "unetr_features", "unetr_norm")
    return trials.changed(config, "mgca", "siim_batch", "limit", "setr_channels")


def structures(dataset: records.RecordSet, target: str) -> list[str]:
    """Names of the classes 1, 2, ... of a target."""
    return organs(dataset.contract) if target == "organs" else [target.removesuffix("s").removesuffix("e")]


def organs(contract: Mapping[str, Any]) -> list[str]:
    """Names of the classes of the organ mask, from the contract's "0 none, 1 right lung, 2 left lung, ..."."""
    text = contract["records"]["organ_mask"]
    numbered = {int(number): name for number, name in re.findall(r"(\d+) ([^,]+)", text)}
    return [numbered[number] for number in range(1, max(numbered) + 1)]


def annotated(dataset: records.RecordSet, modality: str, split: str, config: SegmentConfig) -> list[int]:
    """Rows of a split whose target somebody has drawn, at most `config.limit` (0 = all)."""
    rows = list(range(dataset.size(modality, split)))
    if rows and config.target != "boxes":
        field = dense.TARGETS[config.target]
        masks = dataset.source(modality, split, (field,))
        with progress.shown(len(rows), f"masks of {split}") as tick:
            rows = [i for i in rows if not tick(1) and not (masks[i][field] == dense.UNANNOTATED).all()]
    return rows[: config.limit] if config.limit else rows
