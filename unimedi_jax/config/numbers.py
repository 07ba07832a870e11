"""Numbers that mean nothing as settings: they are refused before anything is computed with them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from data.errors import UserError

MOST_WHOLE = 2**31 - 1  # whole numbers are int32 on the devices
# A number is at least 0, but for these fields; a field of a base class counts for all that derive from it.
LEAST: dict[str, float] = {
    **dict.fromkeys(("InputConfig.processes", "MeshConfig.data"), -1),
    **dict.fromkeys(("ModelConfig.window_hu", "CropsConfig.window_hu", "VolumesConfig.window_hu"), -math.inf),
    "SigLIP.bias": -math.inf,
    **dict.fromkeys(("PretrainConfig.steps", "PretrainConfig.log_every", "PretrainConfig.accumulate"), 1),
    **dict.fromkeys(("MeshConfig.fsdp", "DistributedConfig.processes", "DistributedConfig.timeout"), 1),
    **dict.fromkeys(("CheckpointConfig.every", "GuardConfig.max_skipped", "InputConfig.threads"), 1),
    **dict.fromkeys(("InputConfig.crop", "ModelConfig.image_size", "ModelConfig.image_patch"), 1),
    **dict.fromkeys(("ModelConfig.volume_size", "ModelConfig.volume_patch", "ModelConfig.slice_size"), 1),
    **dict.fromkeys(("ModelConfig.slices_per_layer", "ModelConfig.embedding", "ModelConfig.projection_hidden"), 1),
    **dict.fromkeys(("ModelConfig.head_hidden", "ModelConfig.head_bottleneck"), 1),
    **dict.fromkeys(("ModelConfig.prototypes_cls", "ModelConfig.prototypes_patch"), 1),
    **dict.fromkeys((f"{job}Config.rows" for job in ("Evals", "Embed", "Search", "Probe", "Retrieve", "Evaluate")), 1),
    **dict.fromkeys(("SearchConfig.k", "SearchConfig.upload_mb", "SearchConfig.upload_seconds"), 1),
    **dict.fromkeys(("FitConfig.batch", "FitConfig.epochs", "RetrieveConfig.each", "EvaluateConfig.each"), 1),
    **dict.fromkeys((f"CropsConfig.{name}" for name in ("crop", "cts", "crops", "steps", "validations")), 1),
    **dict.fromkeys((f"VolumesConfig.{name}" for name in ("size", "batch", "epochs")), 1),
    **dict.fromkeys(("CandidatesTask.crop", "CandidatesTask.negatives", "SegmentConfig.siim_batch"), 1),
    **dict.fromkeys(("SegmentTask.setr_channels", "SegmentTask.unetr_features"), 1),
    **dict.fromkeys(("DetectTask.most", "DetectTask.widths", "BenchConfig.rounds"), 1),
    **dict.fromkeys(("BuildConfig.report_length", "InputConfig.report_length"), 3),  # its marks and a word
}
# Shares and momenta are at most 1.
MOST: dict[str, float] = dict.fromkeys(
    (
        *("BuildConfig.max_rejected", "CtRate.val_share", "InputConfig.max_damaged", "ModelConfig.report_dropout"),
        *("EmaConfig.base", "EmaConfig.final", "Contrast.image_weight"),
        *(f"{job}.shares" for job in ("ProbeConfig", "SegmentTask", "DetectTask", "EvaluateConfig")),
        *(f"CropsConfig.{name}" for name in ("positive", "warmup", "flip", "rotate", "scale", "shift", "overlap")),
        *(f"VolumesConfig.{name}" for name in ("share", "warmup", "flip", "flips", "intensity")),
        *(f"StrongConfig.{name}" for name in ("elastic", "rotate", "zoom", "noise", "blur", "multiply", "add")),
        *(f"StrongConfig.{name}" for name in ("contrast", "coarse", "gamma")),
        *("FitConfig.warmup", "DetectTask.lowest", "DetectTask.confidence", "DetectTask.overlap"),
    ),
    1,
)


def check(cls: type, name: str, value: Any, where: str) -> None:
    """Refuses a number, or a tuple with one, that means nothing as the field `name` of the dataclass `cls`.

    Raises:
        UserError: it is not finite, or outside its field's bounds; `where` names the setting.
    """
    owners = [base.__name__ for base in cls.__mro__]
    least = next((LEAST[key] for owner in owners if (key := f"{owner}.{name}") in LEAST), 0)
    most = next((MOST[key] for owner in owners if (key := f"{owner}.{name}") in MOST), math.inf)
    if value == () and name in ("shares", "seeds"):
        raise UserError(f"{where} is empty: give one or more, as in --{where}='(1,)'")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        highest = MOST_WHOLE if isinstance(number, int) and most == math.inf else most
        finite = isinstance(number, int) or math.isfinite(number)  # an integer may be too long for a float
        if not (finite and least <= number <= highest) or (name == "shares" and number == 0):
            bounds = [f"at least {least:g}"] if math.isfinite(least) and name != "shares" else []
            bounds += ["above 0"] if name == "shares" else []
            bounds += [f"at most {highest}"] if math.isfinite(most) or number > highest else []
            raise UserError(f"{where}={value}: {' and '.join(bounds) or 'a finite number'} is allowed")


def check_all(values: Mapping[str, Any], like: Any, where: str = "config") -> None:
    """`check` for the plain values of a section that has the fields of the dataclass instance `like`, and below.

    Sections that belong to no dataclass are left out, and so are objectives: they are checked when they are made.
    """
    for name, value in values.items():
        inner = getattr(like, name, None)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(inner) and name != "objective":
            check_all(value, inner, f"{where}.{name}")
        elif not isinstance(value, Mapping):
            check(type(like), name, value, f"{where}.{name}")
