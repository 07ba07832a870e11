"""Analytic count of the floating-point operations of a training step: matrix products only, 2 per multiply-add."""

import itertools
import math

from unimedi_jax import selection
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads, sizes, text, towers, vision

BACKWARD = 3  # forward once, backward twice the forward


def transformer(size: sizes.Size | vision.VisionTower | text.ReportTower, tokens: int) -> float:
    """Forward pass of one sequence through all layers of a transformer."""
    projections = 2 * tokens * size.width * (4 * size.width + 2 * size.mlp_width)
    attention = 4 * tokens**2 * size.width
    return size.depth * (projections + attention)


def training_step(
    model: towers.UniMedI, objective: settings.UniMedI, *, xrays: int, cts: int, report_length: int
) -> float:
    """One step of UniMedI on `xrays` X-rays and `cts` CTs with their reports; nothing recomputed.

    The student's forward counts three times (backward included), each pass of the teacher once, where the objective
    needs it: one over an X-ray, two over a CT (the volume alone for its slices, then the joint sequence).
    """
    image, volume = math.prod(model.vision.image_grid), math.prod(model.volume_grid)
    slices = model.tokens_2d
    flat, deep = tokenizer(model, model.image_patch, "2d"), tokenizer(model, model.volume_patch, "3d")
    passes = int(objective.distils or objective.scores_tokens)  # of the teacher over the whole sequence
    total = xrays * (_sequence(model, objective, image) + _passes(flat, image, passes))
    total += cts * (_sequence(model, objective, slices + volume) + _passes(flat, slices, passes))
    total += cts * _passes(deep, volume, passes)
    if objective.scores_slices(model.slices):
        total += cts * (transformer(model.vision, model.vision.prefix + volume) + volume * sum(deep))
    total += _local(model, objective, {image: xrays, slices + volume: cts})
    return total + _contrast(model, xrays + cts, report_length, 1 + objective.report_halves + objective.negation)


def _sequence(model: towers.UniMedI, objective: settings.UniMedI, n: int) -> float:
    """Student and teacher on one sequence of n tokens, and their heads; not its tokenizers."""
    num_kept, dropped = selection.num_kept(n, objective.mask_ratio), objective.mask_mode == "drop"
    prefix = model.vision.prefix
    total = BACKWARD * transformer(model.vision, prefix + (num_kept if dropped else n))
    if objective.distils or objective.scores_tokens:
        total += transformer(model.vision, prefix + n)
    if objective.weight_icl:
        total += (BACKWARD + 1) * _head(model.head["cls"], model.vision.width)
    if objective.weight_pcl:
        compared = num_kept if dropped else n - num_kept
        total += (BACKWARD + 1) * compared * _head(model.head["patch"], model.vision.width)
    return total


def tokenizer(model: towers.UniMedI, patch: tuple[int, ...], name: str) -> tuple[float, float]:
    """The forward pass of one token of T_2D ("2d") or T_3D ("3d"): of products whose input is pixels, and of others."""
    width, part = model.vision.width, getattr(model.vision, f"subpatch_{name}")
    first, inside = 2 * math.prod(patch) * width, 0
    if part is not None:
        first += 2 * math.prod(patch) * part.hidden
        inside = 2 * part.hidden * (part.count * part.hidden + (part.count + 1) * width)
    return first, inside


def _passes(per_token: tuple[float, float], tokens: int, passes: int) -> float:
    """The student's pass over so many tokens, backward included, and the teacher's; pixels need no gradient."""
    first, inside = per_token
    return tokens * ((BACKWARD - 1 + passes) * first + (BACKWARD + passes) * inside)


def _contrast(model: towers.UniMedI, samples: int, report_length: int, texts: int) -> float:
    """The reports' tower on `texts` of each sample, both projections and the similarities."""
    joined = 2 * samples * model.project_image.width  # one row of the similarity matrix, both ways once
    report = transformer(model.report, report_length) + _projection(model.project_report, model.report.width)
    return BACKWARD * samples * (texts * report + _projection(model.project_image, model.vision.width) + joined)


def _local(model: towers.UniMedI, objective: settings.UniMedI, samples: dict[int, int]) -> float:
    """Sentences against patches: the maps of both, cosines and what they gather; `samples` by their tokens."""
    if not objective.weight_local:
        return 0.0
    width, reports, total = model.project_image.width, sum(samples.values()), 0.0
    for n, count in samples.items():
        patches = selection.num_kept(n, objective.mask_ratio) if objective.mask_mode == "drop" else n
        others = count if objective.negatives == "modality" else reports
        maps = 2 * width * (patches * model.vision.width + objective.sentences * model.report.width)
        total += BACKWARD * count * (maps + 4 * patches * others * objective.sentences * width)
    return total


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
