"""The rules of `config.trainable`: a regular expression of parameters' paths, and what becomes of those it matches."""

import dataclasses
import math
import re
from typing import Any

Rules = tuple[tuple[str, str], ...]
EVERYTHING: Rules = ((".*", "full"),)
KINDS = {"full": ("lr",), "frozen": (), "lora": ("rank", "alpha", "lr")}  # and the numbers that each takes


@dataclasses.dataclass(frozen=True)
class Choice:
    """What becomes of a parameter: it trains, stays as it is, or stays and gets an adapter (LoRA) that trains."""

    kind: str = "full"
    rank: int = 0
    alpha: float = 0.0
    lr: float = 1.0  # times the job's learning rate


def parse(text: str) -> Choice:
    """The choice that "full", "full:lr=0.1", "frozen", "lora:rank=8" or "lora:rank=8:alpha=16:lr=10" stands for.

    Without `alpha` the adapter's product counts once: alpha = rank. Raises ValueError.
    """
    kind, *settings = text.split(":")
    numbers = {name: _number(value) for name, _, value in (part.partition("=") for part in settings)}
    if kind not in KINDS or numbers.keys() - KINDS[kind] or any(not x > 0 for x in numbers.values()):
        raise ValueError(f"{text!r} is none of full, full:lr=0.1, frozen, lora:rank=8:alpha=16")
    if kind != "lora":
        return Choice(kind, lr=numbers.get("lr", 1.0))
    rank = numbers.get("rank", 0.0)
    if rank < 1 or rank != int(rank):
        raise ValueError(f"{text!r} has no rank, a whole number above 0, as lora:rank=8 has")
    return Choice(kind, int(rank), numbers.get("alpha", rank), numbers.get("lr", 1.0))


def check(rules: Any) -> None:
    """Raises ValueError where a rule is no pair of a regular expression and a choice."""
    for rule in rules:
        if isinstance(rule, str) or len(rule) != 2 or not all(isinstance(part, str) for part in rule):
            raise ValueError(f"config.trainable: {rule!r} is no pair such as ('vision/', 'frozen')")
        try:
            re.compile(rule[0])
            parse(rule[1])
        except (ValueError, re.error) as error:
            raise ValueError(f"config.trainable: {error}") from error


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
