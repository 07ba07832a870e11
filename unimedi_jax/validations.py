"""The validations of a run, in its metrics.jsonl, and what ranks the checkpoints that they belong to."""

import math
import pathlib
from typing import NamedTuple

from unimedi_jax import writers

START = "val/"
RANKING = ("zeroshot/macro", "retrieval/i2t_r5", "supervised/macro", "slices/any/hit_rate")  # ends of names that may
SECOND = "retrieval/i2t_r5"  # where the metric asked for is missing: sets without labels have no zero-shot score


class Ranking(NamedTuple):
    """What each validated step has of a metric."""

    metric: str
    scores: dict[int, float]  # by step; minus infinity where the metric is undefined
    others: tuple[str, ...]  # metrics of these validations that could rank, too


def ranking(workdir: pathlib.Path, asked: str) -> Ranking:
    """The validations of a run by the metric `asked`, or by the retrieval of reports where none of them has it.

    Retrieval is that of the place that `asked` begins with, or else of X-rays or of CTs.
    """
    lines = [line for line in writers.lines(workdir) if any(key.startswith(START) for key in line)]
    known = {key.removeprefix(START) for line in lines for key, value in line.items() if _is_number(value)}
    seconds = (f"{place}/{SECOND}" for place in (asked.partition("/")[0], "xray", "ct"))
    metric = next((name for name in (asked, *seconds) if name in known), asked)
    values = {line["step"]: line.get(START + metric) for line in lines}
    scores = {step: value if _is_number(value) else -math.inf for step, value in values.items()}
    return Ranking(metric, scores, tuple(sorted(name for name in known - {metric} if name.endswith(RANKING))))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
