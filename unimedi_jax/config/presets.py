"""What a preset of pre-training does to the settings."""

from collections.abc import Mapping
from typing import Any


def apply(config: Any, changes: Mapping[str, Any]) -> None:
    """Puts a preset's settings in place of those of `config`, a ConfigDict.

    An objective with a name is another system: it takes the place of the whole objective, and its CTs are their
    volume's tokens in evaluation as in training.

    Raises:
        KeyError, TypeError: there is no such setting, or it is of another type.
    """
    rest = {key: value for key, value in changes.items() if key != "objective"}
    objective = changes.get("objective", {})
    if "name" in objective:
        config.objective = type(config)(objective)
        config.evals.ct_slices = False
    else:
        config.objective.update(objective)
    config.update(rest)
