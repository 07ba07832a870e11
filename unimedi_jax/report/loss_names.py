"""What the short names of losses mean, for the log and for the titles of curves. An unknown name stands for itself."""

from collections.abc import Iterable
from typing import NamedTuple


class Meaning(NamedTuple):
    """A loss in words."""

    title: str  # of its curve
    compared: str  # in the log: what is compared with what
    unit: str = "nats"


MEANINGS = {
    "vl": Meaning("Image-report contrast", "images against the reports of the batch"),
    "icl": Meaning("Distillation of CLS", "the student's CLS against the teacher's"),
    "pcl": Meaning("Distillation of patches", "the student's patches against the teacher's"),
    "reports": Meaning("Contrast of reports", "one half of each report against the other halves of the batch"),
    "local": Meaning("Sentence-patch contrast", "sentences against the patches of the images"),
    "koleo": Meaning("Nearness of embeddings", "each CLS against its nearest neighbour"),
    "dino": Meaning("Self-distillation", "the student's views against the teacher's"),
    "moco": Meaning("Momentum contrast", "one view of an image against the other"),
    "mlm": Meaning("Masked words", "guessed words of the reports against the true ones"),
    "mim": Meaning("Masked patches", "restored patches against the true ones", unit="error of normalised pixels"),
    "labels": Meaning("Classification", "predicted labels against the true ones"),
}


def of(metrics: Iterable[str]) -> list[str]:
    """The losses among the names of metrics."""
    return [key.removeprefix("loss/") for key in metrics if key.startswith("loss/")]


def title(name: str) -> str:
    """The title of a loss's curve."""
    return f"{MEANINGS[name].title} ({name})" if name in MEANINGS else name


def unit(name: str) -> str:
    """The label of its axis."""
    return MEANINGS[name].unit if name in MEANINGS else "loss"


def explained(names: Iterable[str]) -> str:
    """A line for the start of a log: what each loss of a run compares, and in which unit."""
    known = {name: MEANINGS[name] for name in names if name in MEANINGS}
    parts = [f"{name}: {meaning.compared}, in {meaning.unit}" for name, meaning in known.items()]
    rest = [name for name in names if name not in known]
    others = [f"{', '.join(rest)}: see docs/systems.md"] if rest else []
    return f"the loss is a weighted sum, lower is better, of {'; '.join([*parts, *others])}"
