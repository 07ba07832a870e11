"""The weights a run starts from: `config.init`."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from data import contract
from data.errors import UserError
from unimedi_jax.convert import bert, names, vit, weights
from unimedi_jax.inference import address, pretrained
from unimedi_jax.models import towers
from unimedi_jax.models.released import Released
from unimedi_jax.typing import PyTree

# What published weights do not have and may start from the seed; any other gap is refused.
MAY_BE_NEW = {
    "": ("head_", "slice_baseline."),  # a run of another objective has other heads
    "vision": ("mask_token", "patch_embed_3d.", "subpatch_embed", "reg_token", "type_", "depth_of_slice"),
    "report": (),
}


@dataclasses.dataclass(frozen=True)
class Summary:
    """Which arrays of one source of weights were loaded and which were not, by PyTorch's names."""

    part: str
    source: str
    loaded: tuple[str, ...]
    changed: tuple[str, ...]
    skipped: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.part} from {self.source}: {len(self.loaded)} arrays loaded"]
        parts += self.changed
        for word, arrays in (("skipped", self.skipped), ("made new", self.new)):
            if arrays:
                parts.append(f"{word}: {', '.join(arrays[:6])}" + (", ..." if len(arrays) > 6 else ""))
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
    """{"params", "batch_stats"} with pretrained weights in place of random ones, and what was done.

    Args:
        variables: random ones.
        model: their network.
        sets: contracts, by name, of the sets that the run trains on.
        checkpoint: a run or an export, of which everything is taken.
        vision: a ViT in timm's names.
        report: a BERT as transformers stores it.

    Raises:
        UserError: weights do not fit, an array is missing that the source should have, or a set was made by other
            rules than the records that the checkpoint was trained on.
    """
    if checkpoint and (vision or report):
        advice = "set config.init.vision= and config.init.report= empty"
        raise UserError(f"config.init.checkpoint brings vision and report weights of its own: {advice}")
    summaries = []
    if checkpoint:
        trained = pretrained.load(checkpoint)
        if isinstance(trained.model, Released):
            raise UserError(
                f"config.init.checkpoint {checkpoint} is an encoder alone: name its file in config.init.vision"
            )
        for then in trained.contracts.values():
            for name, now in sets.items():
                contract.check_inputs(then, now, where=f"the set {name}", grids=False)
        state = names.to_torch(trained.variables, trained.model)
        left = {name for name in state if name.startswith("head_")} - names.known(variables)
        fitting = {name: array for name, array in state.items() if name not in left}
        variables, summary = _put(variables, vit.Weights(fitting, (), tuple(sorted(left))), "", checkpoint)
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
    place = address.parse(checkpoint).place
    return str(place / (pretrained.REPORT if (place / pretrained.FACTS).is_file() else "tokenizer"))


def write(summaries: list[Summary], path: pathlib.Path) -> None:
    """Every name of every summary, as JSON."""
    content: list[dict[str, Any]] = [dataclasses.asdict(summary) for summary in summaries]
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _put(variables: PyTree, source: vit.Weights, part: str, name: str) -> tuple[PyTree, Summary]:
    prefix = f"{part}." if part else ""
    own = {key for key in names.known(variables) if key.startswith(prefix)}
    theirs = set(names.split_positions(source.state))
    if unknown := sorted(theirs - own):
        raise UserError(
            f"{name} has {unknown[0]} and {len(unknown) - 1} more arrays that this model lacks: "
            "its architecture is another, or config.model differs"
        )
    filled, lacking = names.from_torch(source.state, variables)
    new = sorted(set(lacking) & own)
    allowed = tuple(prefix + start for start in MAY_BE_NEW.get(part, ()))
    if missing := [key for key in new if not key.startswith(allowed)]:
        raise UserError(f"{name} lacks {missing[0]} and {len(missing) - 1} more arrays: it is incomplete")
    loaded = tuple(sorted(theirs))
    return filled, Summary(part or "everything", name, loaded, source.changed, source.skipped, tuple(new))
