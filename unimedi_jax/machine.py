"""The machine that a run computes on, by name: on another kind of processor sums are rounded in another order."""

import logging
import pathlib
import platform
import re
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

LOG = logging.getLogger(__name__)
CPUINFO = pathlib.Path("/proc/cpuinfo")


def describe(mesh: Mesh) -> dict[str, str | int]:
    """Names of the host's processor and of the devices, and how many of them compute."""
    return {"processor": processor(), "device": mesh.devices.flat[0].device_kind, "devices": mesh.size}


def processor() -> str:
    """The model of this host's CPU, or its architecture where the system does not say more."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Those of this host's CPU by the names that Linux gives them, such as "avx2"; none where it does not say."""
    return tuple(_cpuinfo("flags|Features").split())


def _cpuinfo(fields: str) -> str:
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else ""
    line = re.search(rf"^(?:{fields})\s*:\s*(.+)$", text, re.MULTILINE)
    return line[1].strip() if line else ""


def warn_of_another(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Logs how the machine differs from the one that the run began on, and what follows from it."""
    changed = [f"{name} {then[name]} then, {now[name]} now" for name in now if then.get(name, now[name]) != now[name]]
    if changed:
        LOG.warning("another machine (%s): numbers may differ in the last digits from here on", "; ".join(changed))
