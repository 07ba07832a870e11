"""Names of labels in the names of metrics: any text may be a label, and none is taken for a mean or an interval."""

from collections.abc import Sequence

# What stands in the place of a label in names such as `zeroshot/macro`, `slices/any/hit_rate` and `dice/mean`, and the
# ends of an interval, which close such names.
RESERVED = ("macro", "macro10", "mean", "any", "centre", "unstated", "undefined", "low", "high")


def of(names: Sequence[str]) -> list[str]:
    """Each label as a part of a metric's name. An ordinary label is its own key, and no two labels share one."""
    return [_key(name) for name in names]


def _key(name: str) -> str:
    if name in RESERVED or name.startswith(":"):
        name = f":{name}"
    if "/" in name or "%2F" in name or "%25" in name:  # a slash divides the parts of a metric's name
        name = name.replace("%", "%25").replace("/", "%2F")
    return name
