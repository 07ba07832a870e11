"""The weights a run starts from: `config.init`."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from data import contract
from data.errors import UserError
from unimedi_jax.convert import bert, names, vit, weights
from unimedi_jax.inference import pretrained
from unimedi_jax.models import towers
from unimedi_jax.typing import PyTree

# What published weights do not have and may start from the seed; any other gap is refused.
MAY_BE_NEW = {
    "": ("head_",),  # a run of another objective has other heads
    "vision": ("mask_token", "patch_embed_3d.", "type_2d", "type_3d", "depth_of_slice"),
    "report": (),
}


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of one source of weights, by PyTorch's names of the arrays."""

    part: str
    source: str
    loaded: tuple[str, ...]
    changed: tuple[str, ...]
    skipped: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.part} from {self.source}: {len(self.loaded)} arrays loaded"]
        parts += self.changed
        for word, found in (("skipped", self.skipped), ("made new", self.new)):
            if found:
                parts.append(f"{word}: {', '.join(found[:6])}" + (", ..." if len(found) > 6 else ""))
        return "; ".join(parts)


def fill(
    variables: PyTree,
    model: towers.UniMedI,
    sets: Mapping[str, Mapping[str, Any]],
    *,
    checkpoint: str = "",
    vision: str = "",
    report: str = "",
) -> tuple[PyTree, list[Summary]]:
    """{"params", "batch_stats"} with the given weights in place of random ones, and what was done.

    `checkpoint` is a run or an export, all of which is taken; `vision` a ViT in timm's names, `report` a BERT as
    transformers keeps it. `sets` are the contracts, by name, of what the run trains on. Raises UserError wherever
    weights do not fit, nothing is left random that the source should have had, and where a set was made by other rules
    than those the checkpoint has learned with.
    """
    if checkpoint and (vision or report):
        raise UserError(
            "config.init.checkpoint brings vision and report weights of its own: "
            "set config.init.vision= and config.init.report= empty"
        )
    summaries = []
    if checkpoint:
        trained = pretrained.read(checkpoint)
        for then in trained.contracts.values():
            for name, now in sets.items():
                contract.check(then, now, where=f"the set {name}")
        state = names.to_torch(trained.variables, trained.model)
        left = {name for name in state if name.startswith("head_")} - names.known(variables)
        kept = {name: array for name, array in state.items() if name not in left}
        variables, summary = _put(variables, vit.Weights(kept, (), tuple(sorted(left))), "", checkpoint)
        summaries.append(summary)
    for part, source, reader in (("vision", vision, vit.read), ("report", report, bert.read)):
        if source:
            variables, summary = _put(variables, reader(source, model), part, source)
            summaries.append(summary)
    return variables, summaries


def tokenizer(*, checkpoint: str = "", vision: str = "", report: str = "") -> str:
    """The tokenizer that belongs to the given report weights: a folder, "" for none. Raises UserError."""
    if report:
        return str(weights.folder(report, bert.FILES))
    if not checkpoint:
        return ""
    place = pathlib.Path(checkpoint).expanduser()
    return str(place / (pretrained.REPORT if (place / pretrained.FACTS).is_file() else "tokenizer"))


def write(summaries: list[Summary], path: pathlib.Path) -> None:
    """Every name of every summary, as JSON."""
    content: list[dict[str, Any]] = [dataclasses.asdict(summary) for summary in summaries]
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _put(variables: PyTree, found: vit.Weights, part: str, source: str) -> tuple[PyTree, Summary]:
    place = f"{part}." if part else ""
    wanted = {name for name in names.known(variables) if name.startswith(place)}
    given = set(names.split_positions(found.state))
    if strange := sorted(given - wanted):
        raise UserError(
            f"{source} has {strange[0]} and {len(strange) - 1} more arrays that this model has not: "
            "its architecture is another, or config.model differs"
        )
    filled, lacking = names.from_torch(found.state, variables)
    new = sorted(set(lacking) & wanted)
    allowed = tuple(place + name for name in MAY_BE_NEW.get(part, ()))
    if missing := [name for name in new if not name.startswith(allowed)]:
        raise UserError(f"{source} lacks {missing[0]} and {len(missing) - 1} more arrays: it is not whole")
    loaded_names = tuple(sorted(given))
    return filled, Summary(part or "everything", source, loaded_names, found.changed, found.skipped, tuple(new))
