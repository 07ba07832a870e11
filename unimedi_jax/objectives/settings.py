"""Settings of UniMedI's objective: the losses, and what the student sees."""

import dataclasses

from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.typing import Array, Int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the losses and of what the student sees: `config.objective`, word for word."""

    weight_vl: float = 1.0
    weight_icl: float = 1.0
    weight_pcl: float = 1.0
    temperature: float = 0.07
    identical_reports: bool = False  # treat word-for-word equal reports as positives of each other
    contrastive_chunk: int = 0  # rows of L_vl's similarities that exist at a time; 0 = all
    student_temperature: float = 0.1
    teacher_temperature_cls: tuple[float, float] = (0.04, 0.04)  # start and end of the warm-up
    teacher_temperature_patch: tuple[float, float] = (0.04, 0.07)
    temperature_warmup_steps: int = 0
    centre_momentum: float = 0.9
    centre_by_modality: bool = False  # X-rays and CTs each centred on their own mean, not on that of the mixed batch
    mask_ratio: float = 0.5  # share of tokens the student does not see
    mask_mode: str = "drop"  # "drop" removes tokens, "mask_token" replaces them and distils there (iBOT)
    mask_by: str = "attention"  # "attention" keeps the telling tokens, "random" any
    mask_scope: str = "sequence"  # "sequence", or "part": slices and volume keep their own share
    mask_block: int = 1  # 2 keeps 2x2 blocks of an X-ray's tokens (A-CLIP)
    slices_by: str = "attention"  # "attention" (eq. 2) or "random"
    random_until_step: int = 0  # both choices are random before: attention from scratch tells nothing yet

    def __post_init__(self) -> None:
        for name, allowed in {
            "mask_mode": ("drop", "mask_token"),
            "mask_by": ("attention", "random"),
            "mask_scope": ("sequence", "part"),
            "slices_by": ("attention", "random"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {allowed}, not {getattr(self, name)!r}")
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is at least 0 and below 1, not {self.mask_ratio}")

    def temperatures(self, step: Int[Array, ""]) -> tuple[Array, Array]:
        """The teacher's temperatures for CLS and patches: linear from start to end, then constant."""
        steps = self.temperature_warmup_steps
        cls, patch = self.teacher_temperature_cls, self.teacher_temperature_patch
        return losses.warmed(cls, steps, step), losses.warmed(patch, steps, step)

    def scores(self, by: str, attention: Array, draw: Array, step: Int[Array, ""]) -> Array:
        """Attention or a random draw, as `by` and `random_until_step` say. What is not used is never computed."""
        if by == "random":
            return draw
        if not self.random_until_step:
            return attention
        return jnp.where(step < self.random_until_step, draw, attention)
