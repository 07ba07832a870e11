"""What a compiled step moves through main memory, by its parts."""

import re

from unimedi_jax import hlo

# The first whose pattern is in the name of an operation has its bytes. Backward passes are with their forward ones.
PARTS = {
    "weights, moments, EMA teacher": r"/update/",
    "word embeddings": r"/report/(words|positions)",
    "stacks of the loops over layers": r"/while/body/.*dynamic_update|(^|/)broadcast(_in_dim)?(\.\d+)?$",
    "teacher's forward pass": r"\bteacher\b",
    "distillation over the prototypes": r"\bdistillation\b|\bhead_(cls|patch)\b",
    "attention": r"/attention\b",
    "MLPs": r"/mlp\b",
    "norms, dropout": r"/(norm|Dropout)_?\d*\b",
    "tokenizers": r"\bembed_(xray|ct|volume|image|slices)\b",
    "projections, contrast": r"\bproject",
    "the rest": "",
}


def by_part(program: hlo.Program) -> dict[str, float]:
    """Bytes of `hlo.bytes_moved` by the parts of a training step, all of PARTS."""
    moved = dict.fromkeys(PARTS, 0.0)
    for source, count in hlo.bytes_by_source(program).items():
        moved[next(part for part, pattern in PARTS.items() if re.search(pattern, source))] += count
    return moved
