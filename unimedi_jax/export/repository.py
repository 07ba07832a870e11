"""What makes an export a repository of the Hugging Face hub: the card's header, timm's configuration, an example."""

import functools
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import huggingface_hub
import numpy as np

from data.phantom import source as phantom
from unimedi_jax.inference import pretrained
from unimedi_jax.input.places import SINGULAR
from unimedi_jax.report import tables
from unimedi_jax.report.tables import Line

VISION, TIMM, PICTURE = "vision_2d.safetensors", "model.safetensors", "example.png"
TAGS = ["medical", "radiology", "chest-x-ray", "ct", "vision-language", "jax", "unimedi"]
UNKNOWN = "unknown"  # the hub's word for weights without a stated licence
# A number of `metrics.jsonl` -> the hub's task, the metric and its name.
RESULTS = {
    "zeroshot/macro10": (
        "zero-shot-image-classification",
        "roc_auc",
        "zero-shot AUC, mean over findings with 10 positive and negative cases or more",
    ),
    "probe/macro10": ("image-classification", "roc_auc", "linear probe AUC, the same"),
    "retrieval/i2t_r5": ("image-feature-extraction", "recall_at_5", "image to report R@5"),
    "slices/any/hit_rate": ("image-feature-extraction", "hit_rate", "slice hit rate"),
}
# A patient of a seed of its own, whom no set of the default seeds holds: consolidation and pneumothorax.
EXAMPLE = {"seed": 2026, "number": 6}


def header(trained: pretrained.Pretrained, metrics: Sequence[Line], *, licence: str) -> str:
    """The card's front matter, YAML between dashes: licence, tags, the results on test patients as a model index."""
    data = huggingface_hub.ModelCardData(
        license=licence or default_licence(trained.contracts),
        library_name="unimedi_jax",
        pipeline_tag="zero-shot-image-classification",
        tags=TAGS,
        model_name="UniMedI",
        eval_results=_results(trained, metrics) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def default_licence(contracts: Mapping[str, Any]) -> str:
    """Apache-2.0, as the project, of what learnt from its phantom alone; of anything else it is not ours to say."""
    generators = (str(one.get("source", {}).get("generator", "")) for one in contracts.values())
    ours = [text.startswith("phantom") for text in generators]
    return "apache-2.0" if ours and all(ours) else UNKNOWN


def timm_config(trained: pretrained.Pretrained) -> dict[str, Any]:
    """What `timm.create_model` needs to build the vision tower of X-rays by itself."""
    tower, size = trained.model.vision, trained.config["model"]["image_size"]
    high, wide = trained.model.image_patch
    model = {
        "img_size": size,
        "patch_size": high if high == wide else [high, wide],
        "in_chans": 1,
        "embed_dim": tower.width,
        "depth": tower.depth,
        "num_heads": tower.heads,
        "mlp_ratio": tower.mlp_width / tower.width,
        "reg_tokens": tower.registers,
    }
    inputs = {
        "input_size": [1, size, size],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": [0.5],
        "std": [0.5],
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return {
        "architecture": "vit_base_patch16_224",  # timm's function, whose sizes model_args replace
        "num_classes": 0,
        "num_features": tower.width,
        "model_args": model,
        "pretrained_cfg": inputs,
    }


def link_weights(folder: pathlib.Path) -> None:
    """The vision tower under the name by which timm looks for it too: one file where the disk has links."""
    try:
        os.link(folder / VISION, folder / TIMM)
    except OSError:
        shutil.copyfile(folder / VISION, folder / TIMM)


def write_example(folder: pathlib.Path) -> str:
    """An X-ray of the phantom as PICTURE, to try the model on; returns its report."""
    image, report = _example()
    content = cv2.imencode(".png", image)[1]
    (folder / PICTURE).write_bytes(content.tobytes())
    return report


@functools.cache
def _example() -> tuple[np.ndarray, str]:
    source = phantom.source(xrays=EXAMPLE["number"] + 1, cts=0, seed=EXAMPLE["seed"])
    record = source.convert(source.rows[EXAMPLE["number"]])
    return record["image"], record["report"]


def _results(trained: pretrained.Pretrained, metrics: Sequence[Line]) -> list[huggingface_hub.EvalResult]:
    final = tables.final(metrics) or {}
    name = ", ".join(trained.contracts)
    return [
        huggingface_hub.EvalResult(
            task_type=task,
            dataset_type=name,
            dataset_name=f"{name}, {SINGULAR[modality]}, test patients",
            dataset_split="test",
            metric_type=metric,
            metric_name=title,
            metric_value=round(value, 4),
        )
        for key, (task, metric, title) in RESULTS.items()
        for modality in SINGULAR
        if (value := final.get(f"test/{modality}/{key}")) is not None and not math.isnan(value)
    ]
