"""Generated headers for comparisons with a second reader: how many, and what counts as the same.

A short run is part of the suite; the campaign is
`UNIMEDI_HEADERS=500 python -m pytest tests/data/readers/test_second_reader*.py`, 500 headers a format.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable

import hypothesis
import numpy as np
import SimpleITK
from hypothesis import strategies as st
from nibabel import affines

from data.readers import geometry, volumes
from data.readers.files import BadInput

COUNT = int(os.environ.get("UNIMEDI_HEADERS", "25"))
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
generated = hypothesis.settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=True,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
    suppress_health_check=list(hypothesis.HealthCheck),
)
RULES = volumes.Rules(min_slices=2)
TILTED_HU = 3  # between voxels of which each is one of thousands of HU, by the last digits of two affines


@st.composite
def scans(draw) -> np.ndarray:
    """HU int16 (i, j, k) of 4 to 7 voxels a side, with air, tissue and bone at drawn places."""
    shape = tuple(draw(st.integers(4, 7)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hu = rng.integers(-1024, 1500, shape).astype(np.int16)
    hu.flat[:2] = (-1000, 40)
    return hu


@st.composite
def directions(draw, *, tilted: bool = True) -> np.ndarray:
    """Columns: unit vectors of the three axes in any of the 48 orders, tilted by a few degrees or not at all."""
    order = draw(st.permutations(range(3)))
    signs = [draw(st.sampled_from((-1.0, 1.0))) for _ in range(3)]
    matrix = np.eye(3)[:, order] * signs
    if tilted and draw(st.booleans()):
        angle = np.radians(draw(st.floats(1.5, 20)))
        axis = draw(st.integers(0, 2))
        turn = np.eye(3)
        a, b = [n for n in range(3) if n != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def spacings() -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(0.3, 5).map(lambda size: round(size, 3)), min_size=3, max_size=3)


def origins() -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-300, 300).map(lambda place: round(place, 2)), min_size=3, max_size=3)


def ours(path: pathlib.Path) -> geometry.Scan | None:
    """The scan by the project's readers, None for a refusal."""
    try:
        return volumes.read_ct(path, rules=RULES)
    except BadInput:
        return None


def same_scan(ours_: geometry.Scan, judge: SimpleITK.Image) -> None:
    """Asserts that a scan has the voxels and the place that SimpleITK gives it."""
    matrix = np.array(judge.GetDirection()).reshape(3, 3) * np.array(judge.GetSpacing())
    voxels = SimpleITK.GetArrayFromImage(judge).transpose(2, 1, 0).astype(np.float64)
    other = geometry.reorient(geometry.Scan(voxels, affines.from_matvec(matrix, judge.GetOrigin())))
    hu = np.rint(np.clip(other.voxels, geometry.AIR_HU, geometry.HIGHEST_HU))
    expected = geometry.straighten(geometry.Scan(hu.astype(np.int16), other.affine), order=1, outside=geometry.AIR_HU)
    assert ours_.voxels.shape == expected.voxels.shape
    np.testing.assert_allclose(ours_.affine, expected.affine, atol=1e-3)
    inside = np.ones(expected.voxels.shape, bool)
    if geometry.straight_shape(other):
        # On the very edge of a tilted scan the last digit of an affine decides what counts as outside.
        outside = [scan.voxels == geometry.AIR_HU for scan in (ours_, expected)]
        assert np.mean(outside[0] != outside[1]) < 0.3
        inside = ~(outside[0] | outside[1])
    np.testing.assert_allclose(ours_.voxels[inside], expected.voxels[inside], atol=TILTED_HU if not inside.all() else 1)


def compared(write: Callable[[pathlib.Path], pathlib.Path], judge: Callable[[pathlib.Path], SimpleITK.Image]) -> bool:
    """Writes one file and reads it twice; True where both read it, and then to the same. A refusal is no difference."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(pathlib.Path(folder))
        scan = ours(path)
        if scan is None:
            return False
        same_scan(scan, judge(path))
        return True
