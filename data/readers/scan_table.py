"""What the table of a set says of a scan whose file does not hold it: slope and intercept, and how it lies."""

from typing import NamedTuple

import numpy as np
from nibabel import affines

from data.readers.files import BadInput, Note, ignore_note

SAME_SIZE = 0.01  # the share by which sizes of a voxel may differ and count as one
PLAIN = 0.0175  # by which a direction may miss an axis of the patient: one degree


class TableFacts(NamedTuple):
    """A scan by the table of its set; what the table lacks is None or empty."""

    rescale: tuple[float, float] | None = None  # slope and intercept
    spacing_mm: tuple[float, ...] = ()  # of the file's axes: along rows, along columns, between slices
    orientation: tuple[float, ...] = ()  # ImageOrientationPatient
    position: tuple[float, ...] = ()  # ImagePositionPatient of the first slice


def affine(own: np.ndarray, facts: TableFacts, note: Note = ignore_note) -> np.ndarray:
    """Index to millimetres in LPS, (4, 4): that of the file, or by the table where the file's was never filled in.

    A header is believed that has a place of the scan and the table's spacing. Raises BadInput where neither header nor
    table give axes: those of slices that are not axial do not follow from a table of one slice.
    """
    if not facts.spacing_mm:
        return own
    sizes, filled = affines.voxel_sizes(own), bool(own[:3, 3].any())
    if filled and np.abs(sizes / facts.spacing_mm - 1).max() <= SAME_SIZE:
        return own
    directions = own[:3, :3] / sizes
    if facts.orientation:
        directions = _directions(facts.orientation, directions if filled else None)
    origin = np.array(facts.position or own[:3, 3])
    by_table = affines.from_matvec(directions * facts.spacing_mm, origin)
    if not np.array_equal(by_table, own):
        note("geometry_by_table")
    return by_table


def _directions(orientation: tuple[float, ...], own: np.ndarray | None) -> np.ndarray:
    """The patient's directions of rows, columns and slices, (3, 3); `own` are those of a header that has some."""
    row, column = np.split(np.array(orientation), 2)
    directions = np.stack([row, column, np.cross(row, column)], axis=1)
    if np.abs(np.abs(directions) - np.eye(3)).max() <= PLAIN:
        return np.rint(directions)
    if own is not None and np.abs(directions - own).max() <= PLAIN:
        return own
    raise BadInput("no_geometry", "the header was never filled in, and the set's table names slices that are not axial")
