"""Sets whose CTs lie on another grid than the encoder was trained on: what has to be the same nonetheless."""

from data.errors import UserError
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records

SAME = ("axes", "hu")  # rules of CTs


def check(trained: Pretrained, dataset: records.RecordSet) -> None:
    """Raises UserError where CTs have other axes or another scale than those of the encoder's training."""
    own = dataset.contract["records"]["ct"]
    known = next((one["records"]["ct"] for one in trained.contracts.values() if "ct" in one["records"]), own)
    if other := [name for name in SAME if known.get(name) != own.get(name)]:
        raise UserError(
            f"ct of {dataset.folder} was made by other rules than the encoder's training set ({', '.join(other)}): "
            "build it with the code of that set"
        )


def spacing(dataset: records.RecordSet) -> tuple[float, ...]:
    """Millimetres (z, y, x) of the CTs of a set that has a spacing; empty for whole scans on one grid."""
    return tuple(dataset.contract["records"].get("ct", {}).get("spacing_mm") or ())


def has_own_slices(dataset: records.RecordSet) -> bool:
    """Whether the slices of a set's CTs are those of the scans: kept as they were, or drawn so, as the phantom's."""
    first = spacing(dataset)[:1]
    return first == (0.0,) or bool(first and "generator" in dataset.contract["source"])
