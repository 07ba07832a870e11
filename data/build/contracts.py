"""The preprocessing contract of a set: everything that shaped its numbers, as one JSON beside its records."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data import contract, record_grid
from data.build.build_statistics import BuildStatistics
from data.readers import dicom_decoders, geometry, volumes, xrays
from data.record_grid import RecordGrid
from data.reports import text
from data.source import ORGANS, Source

FILE = contract.FILE
FORMAT = 1  # increases when a change of this code changes records
PIXEL_LIBRARIES = (
    "numpy scipy opencv-python-headless pillow nibabel pydicom python-gdcm pyjpegls pylibjpeg pylibjpeg-libjpeg "
    "pylibjpeg-openjpeg"
)


def fingerprint(source: Source) -> str:
    """Identifies a source without reading its pixels: its rows and labels, and the code's version."""
    facts = (FORMAT, source.labels, source.prompts, source.contract, sorted(source.annotations))
    facts += (source.grid.changed,) if source.grid.changed else ()
    digest = hashlib.sha256(repr(facts).encode())
    for row in (*source.rows, *source.rejected):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def make(source: Source, statistics: BuildStatistics, *, name: str, folder: Path) -> dict[str, Any]:
    """The contract of a built set: everything that shaped its numbers, and the hash of its records."""
    vocabulary = folder / "tokenizer" / "tokenizer.json"
    sharing = statistics.sharing_a_report()
    return {
        "format": FORMAT,
        "name": name,
        "labels": list(source.labels),
        "prompts": source.prompts,
        "truth": sorted(source.annotations),
        "splits": statistics.counts(),
        "records": rules(source.organs, source.grid),
        "source": source.contract,
        "tokenizer": {"sha256": hashlib.sha256(vocabulary.read_bytes()).hexdigest() if vocabulary.exists() else ""},
        "libraries": libraries(),
        "pictures_in_two_splits": statistics.leaked(),
        **({contract.SHARING: sharing} if sharing else {}),
        "rejected": len(statistics.rejected),
        **({"limits": source.limits} if statistics.rejected and source.limits else {}),
        "notes": dict(sorted(statistics.notes.items())),
        "source_fingerprint": fingerprint(source),
        "content_sha256": statistics.content_hash(),
    }


def otherwise(known: Mapping[str, Any], source: Source) -> list[str]:
    """What has changed since a set was built and may let rows in that were rejected: limits, libraries; as words."""
    limits = {f"config.{name}": value for name, value in source.limits.items()}
    now = libraries() | limits
    then = now | {f"config.{name}": value for name, value in known.get("limits", {}).items()}
    then |= known.get("libraries", {})
    return [f"{name} {then[name]} then, {now.get(name, 'absent')} now" for name in then if then[name] != now.get(name)]


def rules(organs: Sequence[str] = ORGANS, grid: RecordGrid = record_grid.DEFAULT) -> dict[str, Any]:
    """How this code makes a record of an X-ray, a CT and a report: the part of the contract that all sets share."""
    return {
        "xray": {"image": [grid.film_size] * 2, "dtype": "uint8", "axes": "y x", "rules": xrays.rules(grid.film_size)},
        "ct": {
            **grid.for_contract,
            "dtype": "int16",
            "axes": "z y x, growing to Superior, Posterior, Left",
            "hu": [geometry.AIR_HU, geometry.HIGHEST_HU],
            "rules": volumes.grid_rules(grid),
        },
        "labels": "1 present, 0 absent, NaN unknown",
        "lesion_mask": "0 none, 1 + index of the label, 254 something of unstated kind, 255 not annotated",
        "organ_mask": ", ".join(f"{value} {organ}" for value, organ in enumerate(("none", *organs))),
        "report": text.RULE,
    }


def libraries() -> dict[str, str]:
    """Versions of what turns files into pixels, and the decoder of each coding; `absent` for what is not installed."""
    return {library: _version(library) for library in PIXEL_LIBRARIES.split()} | dicom_decoders.plugins()


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # OpenCV has four names
        return "absent"
