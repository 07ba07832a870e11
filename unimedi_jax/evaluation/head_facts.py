"""What the file of a head says of itself, which may come from a stranger: the kind of each fact, before any is used."""

from collections.abc import Callable, Mapping
from typing import Any

MOST = 1 << 16  # of any whole number: channels, widths, classes


def flaw(facts: Any) -> str:
    """The first fact that is missing or of another kind than heads have; "" where there is none."""
    if not isinstance(facts, dict) or not _text(facts.get("kind")) or facts["kind"] not in OF_KIND:
        return "kind"
    needed = COMMON | OF_KIND[facts["kind"]]
    return next((name for name, fits in needed.items() if name not in facts or not fits(facts[name])), "")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= MOST and all(map(fits, value))


def _maybe(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _checkpoint(value: Any) -> bool:
    return isinstance(value, dict) and {"run", "network", "step"} <= value.keys()


def _trained_on(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("set"))


def _contract(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("records"), dict)


def _thresholds(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, Mapping) and _number(one.get("value")) for one in value.values()
    )


Fits = dict[str, Callable[[Any], bool]]
COMMON: Fits = {
    "modality": lambda value: value in ("xray", "ct"),
    "tune": _text,
    "encoder": _text,
    "checkpoint": _checkpoint,
    "trained_on": _trained_on,
    "contract": _contract,
}
# The facts that the heads of each kind have beside those that all have.
OF_KIND: dict[str, Fits] = {
    "probe": {"names": _list_of(_text), "thresholds": _thresholds, "one_of": _flag, "ct_slices": _maybe(_flag)},
    "segment": {
        "names": _list_of(_text),
        "target": _text,
        "classes": _whole,
        "setr_channels": _list_of(_whole),
        "unetr_features": _whole,
        "unetr_norm": _flag,
        "windows": _flag,
    },
    "crops": {
        "names": _list_of(_text),
        "target": _text,
        "classes": _whole,
        "features": _whole,
        "norm": _flag,
        "size": _list_of(_whole),
        "window_hu": _list_of(_number),
        "overlap": _number,
    },
    "detect": {"widths": _list_of(_whole), "lowest": _number, "overlap": _number, "threshold": _number},
}
