"""The inspect job: what a built set, a run or an export holds, and its preprocessing contract, for the eye."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data import contract as contracts
from data import json_files
from data.errors import UserError
from unimedi_jax import checkpoint_reading
from unimedi_jax.inference import pretrained

HEAD = ("name", "format", "content_sha256", "rejected", "notes", "pictures_in_two_splits")
HIDDEN = ("splits", "prompts", "labels", "source_fingerprint")  # shown otherwise, or of no use to the eye
WIDTH = 118


def run(config: Any, _: Path | None = None) -> None:
    """Prints what is in `config.path`. Raises UserError where there is nothing to show."""
    if not config.path:
        raise UserError("config.path is empty: name a built set, a run's workdir or an export")
    print("\n".join(describe(Path(config.path).expanduser())))


def describe(folder: Path) -> Iterator[str]:
    """The lines that `run` prints."""
    if (folder / pretrained.FACTS).is_file():  # first, as an export holds a contract too
        yield f"export: {folder}"
        facts = json_files.read_object(folder / pretrained.FACTS, "export again")
        yield from _meta(facts, folder)
    elif (folder / contracts.FILE).is_file():
        yield f"built set: {folder}"
        yield from _contract(_checked(json_files.read_object(folder / contracts.FILE, "build it again"), folder))
    elif (folder / "checkpoints").is_dir():
        meta = checkpoint_reading.meta(folder)
        yield f"run: {folder}"
        yield from _meta(meta, folder)
    else:
        raise UserError(
            f"{folder} is no built set ({contracts.FILE}), no run (checkpoints/) and no export: nothing to inspect"
        )


def _meta(meta: Mapping[str, Any], folder: Path) -> Iterator[str]:
    versions, sets, config = (meta.get(name, {}) for name in ("versions", "contracts", "config"))
    if not all(isinstance(part, dict) for part in (versions, sets, config)):
        raise UserError(f"{folder} is damaged or was edited: versions, contracts or config are not of their form")
    yield "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "trained on: " + ", ".join(sets) + (f", {config['steps']} steps" if "steps" in config else "")
    for contract in sets.values():
        yield ""
        yield from _contract(_checked(contract, folder))


def _checked(contract: Any, folder: Path) -> Mapping[str, Any]:
    if flaw := contracts.flaw(contract, ()):
        raise UserError(f"{folder} is damaged or was edited: a contract of which {flaw}")
    return contract


def _contract(contract: Mapping[str, Any]) -> Iterator[str]:
    for name in HEAD:
        if contract.get(name) not in (None, {}, []):
            yield from _line(name, contract[name])
    yield from _line("labels", ", ".join(contract.get("labels", ())) or "none")
    counts = contract.get("splits", {})
    for modality, splits in counts.items():
        yield from _line(f"{modality} records", ", ".join(f"{count} {split}" for split, count in splits.items()))
    for name, value in contract.items():
        if isinstance(value, Mapping) and name not in (*HEAD, *HIDDEN):
            yield f"{name}:"
            for field, leaf in contracts.flat(value).items():
                yield from _line(f"  {field}", leaf)


def _line(name: str, value: Any) -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return textwrap.wrap(f"{name}: {text}", WIDTH, subsequent_indent="      ", break_on_hyphens=False) or [f"{name}:"]
