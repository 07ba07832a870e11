"""Analytic count of the floating-point operations of a training step: matrix products only, 2 per multiply-add."""

import itertools
import math

from unimedi_jax import selection
from unimedi_jax.models import heads, sizes, text, towers, vision

BACKWARD = 3  # forward once, backward twice the forward


def transformer(size: sizes.Size | vision.VisionTower | text.ReportTower, tokens: int) -> float:
    """Forward pass of one sequence through all layers of a transformer."""
    projections = 2 * tokens * size.width * (4 * size.width + 2 * size.mlp_width)
    attention = 4 * tokens**2 * size.width
    return size.depth * (projections + attention)


def training_step(
    model: towers.UniMedI, *, xrays: int, cts: int, report_length: int, mask_ratio: float, mask_mode: str = "drop"
) -> float:
    """One step of UniMedI on `xrays` X-rays and `cts` CTs with their reports; nothing recomputed.

    The student's forward counts three times (backward included), each pass of the teacher once: one over an X-ray, two
    over a CT (the volume alone for its slices, then the joint sequence).
    """
    tower, report_tower = model.vision, model.report
    image, volume = math.prod(tower.image_grid), math.prod(model.volume_grid)
    per_slice = (model.slice_size // model.image_patch[0]) ** 2
    slices = model.slices * model.slices_per_layer * per_slice

    total = 0.0
    for samples, n, alone in ((xrays, image, 0), (cts, slices + volume, volume)):
        num_kept = selection.num_kept(n, mask_ratio)
        distilled = num_kept if mask_mode == "drop" else n - num_kept
        student = 1 + (num_kept if mask_mode == "drop" else n)
        passes = BACKWARD * transformer(tower, student) + transformer(tower, 1 + n)
        passes += transformer(tower, 1 + alone) if alone else 0.0
        passes += (BACKWARD + 1) * _head(model.head["cls"], tower.width)
        passes += (BACKWARD + 1) * distilled * _head(model.head["patch"], tower.width)
        total += samples * passes
    # The tokenizers' inputs need no gradient: 2 instead of 3 for the student, and 1 for each teacher pass.
    pixels, voxels = math.prod(model.image_patch), math.prod(model.volume_patch)
    total += xrays * 3 * 2 * image * pixels * tower.width
    total += cts * 3 * 2 * slices * pixels * tower.width
    total += cts * 4 * 2 * volume * voxels * tower.width
    report = transformer(report_tower, report_length)
    samples = xrays + cts
    joined = 2 * samples * model.project_image.width  # one row of the similarity matrix, both ways once
    project = _projection(model.project_image, tower.width)
    project += _projection(model.project_report, report_tower.width)
    return total + BACKWARD * samples * (report + project + joined)


def _head(head: heads.DinoHead, width: int) -> float:
    widths = width, head.hidden, head.hidden, head.bottleneck, head.prototypes
    return 2 * sum(n * m for n, m in itertools.pairwise(widths))


def _projection(head: heads.Projection, width: int) -> float:
    if head.kind == "linear":
        return 2 * width * head.width
    return 2 * (width * head.hidden + head.hidden * head.width)


PEAK = {  # dense bf16 FLOP/s of one device, from the vendors' data sheets
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
}


def peak(device_kind: str) -> float | None:
    """Peak of a device by the name JAX gives it; None where it is not known (a CPU, say)."""
    # Longest first: "TPU v5 lite" is no "TPU v5".
    names = sorted(PEAK, key=len, reverse=True)
    return next((PEAK[name] for name in names if device_kind.startswith(name)), None)
