"""Reads one array of NumPy's .npz, its header first: what it claims is checked before it is unpacked."""

import zipfile
from pathlib import Path

import numpy as np

from data.readers.files import BadInput, check_file

MAX_BYTES = 1 << 31
MAX_HEADER = 10_000  # as numpy.load


def read_array(path: Path, name: str, dimensions: int) -> np.ndarray:
    """The array `name` of a file. Never unpickles. Raises BadInput."""
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = header(stream, max_header_size=MAX_HEADER)
        _check(shape, dtype, dimensions)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except BadInput:
        raise
    except KeyError as error:
        raise BadInput("bad_header", f"the file holds no array named {name}, or one of an unknown version") from error
    except Exception as error:  # zip and NumPy raise whatever the damage leads to
        raise BadInput("truncated", f"the array is cut short or damaged ({type(error).__name__})") from error


def _check(shape: tuple[int, ...], dtype: np.dtype, dimensions: int) -> None:
    if dtype.hasobject or dtype.kind not in "iuf":
        raise BadInput("not_scalar", "the array holds something else than numbers")
    if len(shape) != dimensions:
        raise BadInput("not_3d", f"the array has {len(shape)} dimensions, not {dimensions}")
    if np.prod(shape, dtype=object) * dtype.itemsize > MAX_BYTES:
        raise BadInput("too_large", f"an array of {' x '.join(map(str, shape))}")
