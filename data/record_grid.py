"""The grid on which the records of a set lie: chosen when the set is built, named in its contract, the same for all."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from data.errors import UserError, check_choice

STEP, MOST_PIXELS = 32, 2048  # a film's side is a multiple of the one, at most the other
SPACING_MM = (0.2, 30.0)  # of a record's voxels
LEAST_VOXELS = 4  # along each axis of a volume
MOST_VOXELS = 1 << 28  # of a record: a grid of 640 in each direction
CROPS = ("", "body", "lungs")
Shape = tuple[int | None, int | None, int | None]  # (z, y, x); None: by record


@dataclasses.dataclass(frozen=True)
class RecordGrid:
    """Settings of the same names in configs/build.py; the defaults are those of all sets before there was a choice."""

    film_size: int = 256  # pixels of both sides of an X-ray
    volume: tuple[int, int, int] = (32, 128, 128)  # voxels (z, y, x) onto which a whole scan is brought
    # (z, y, x), y and x alike: instead, such voxels over the scan's own extent; 0: of the scan's own size.
    spacing_mm: tuple[float, ...] = ()
    crop_to: str = ""  # one of CROPS: of a scan only the box around these, and a margin

    def __post_init__(self) -> None:
        """Raises UserError for sizes that no record has."""
        if self.film_size % STEP or not STEP <= self.film_size <= MOST_PIXELS:
            raise UserError(f"config.film_size is {self.film_size}: a multiple of {STEP}, at most {MOST_PIXELS}")
        if len(self.volume) != 3 or min(self.volume) < LEAST_VOXELS or math.prod(self.volume) > MOST_VOXELS:
            raise UserError(
                f"config.volume is {self.volume}: three numbers of voxels, z, y and x, each at least {LEAST_VOXELS}, "
                f"with a product of at most {MOST_VOXELS:,}"
            )
        low, high = SPACING_MM
        if self.spacing_mm and (
            len(self.spacing_mm) != 3 or not all(low <= (mm or low) <= high for mm in self.spacing_mm)
        ):
            raise UserError(
                f"config.spacing_mm is {self.spacing_mm}: three lengths in mm, z, y and x, from {low:g} to {high:g}, "
                "or 0 for the scan's own"
            )
        if self.spacing_mm and self.spacing_mm[1] != self.spacing_mm[2]:
            raise UserError(f"config.spacing_mm is {self.spacing_mm}: pixels are square, so y and x are alike")
        if self.spacing_mm and self.volume != RecordGrid.volume:
            raise UserError("config.spacing_mm leaves the shape to the scan, config.volume sets it: give one of them")
        check_choice("crop_to", self.crop_to, CROPS)

    @property
    def volume_shape(self) -> Shape:
        """Voxels (z, y, x) of every volume; None along each axis where the records differ."""
        return (None, None, None) if self.spacing_mm else self.volume

    @property
    def plain_volumes(self) -> bool:
        """Whether volumes are as they always were; else their records say how they lie in the patient and the file."""
        return dataclasses.replace(self, film_size=RecordGrid.film_size) == DEFAULT

    def with_originals(self, masks: Iterable[str]) -> frozenset[str]:
        """The annotations of a set whose `masks` come in files: but by default `original_<mask>` too."""
        masks = frozenset(masks)
        return masks if self.plain_volumes else masks | {f"original_{mask}" for mask in masks}

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        return {name: value for name, value in vars(self).items() if value != getattr(RecordGrid, name)}

    @property
    def for_contract(self) -> dict[str, Any]:
        """What a contract says of volumes: `volume`, and `spacing_mm` and `crop_to` where there are any."""
        facts: dict[str, Any] = {"volume": list(self.volume_shape)}
        if self.spacing_mm:
            facts["spacing_mm"] = list(self.spacing_mm)
        return facts | ({"crop_to": self.crop_to} if self.crop_to else {})


DEFAULT = RecordGrid()


def of_settings(film_size: int, volume: Any, spacing_mm: Any, crop_to: str) -> RecordGrid:
    """The grid that settings ask for, as a command line or JSON gives them. Raises UserError."""
    return RecordGrid(film_size, tuple(volume), tuple(float(mm) for mm in spacing_mm), crop_to)


def of_contract(contract: Mapping[str, Any]) -> RecordGrid:
    """The grid of the set, or of the training data of the network, to which a contract belongs.

    Raises:
        UserError: the contract, perhaps a stranger's, names none that records can have.
    """
    try:
        xray, ct = (contract["records"].get(name, {}) for name in ("xray", "ct"))
        height, width = xray.get("image", [DEFAULT.film_size] * 2)
        shape, spacing = tuple(ct.get("volume", DEFAULT.volume)), tuple(ct.get("spacing_mm", ()))
        whole = DEFAULT.volume if spacing else shape
        if height != width or (spacing and shape != (None,) * 3) or not all(type(n) is int for n in (height, *whole)):
            raise TypeError
        return of_settings(height, whole, spacing, ct.get("crop_to", ""))
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(
            "the contract of the set names sizes that no records have (records.xray.image, records.ct.volume): bring "
            "back a copy of the set or build it again"
        ) from error
