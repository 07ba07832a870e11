"""Streams voxels out of a file, raw or compressed, plane by plane, and never more than the header names."""

import contextlib
import dataclasses
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from isal import isal_zlib

from data.readers import memory
from data.readers.files import BadInput, check_file
from data.readers.hounsfield import SLAB_BYTES

MOST_BEHIND = 1 << 24  # bytes behind the voxels that are read to reach a checksum; whoever packs more hides something
MAX_VOXELS = 1 << 31


class Stream(Protocol):
    """What voxels are read from."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, fewer at the end."""


Opener = Callable[[], contextlib.AbstractContextManager[Stream]]


@dataclasses.dataclass(frozen=True)
class Payload:
    """Where the voxels of a volume lie: a file, and the bytes in it before the voxels or their zlib or gzip stream."""

    path: Path
    start: int
    packed: bool
    dtype: np.dtype
    shape: tuple[int, int, int]


class Inflated:
    """A zlib or gzip stream that is unpacked as it is read."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed, self._unpack = packed, isal_zlib.decompressobj(wbits=47)  # either, by its first bytes

    def read(self, size: int) -> bytes:
        """At most `size` bytes, fewer at the end. Raises EOFError for a stream without its end."""
        out = bytearray()
        while len(out) < size and not self._unpack.eof:
            chunk = self._unpack.unconsumed_tail or self._packed.read(1 << 20)
            if not chunk:
                raise EOFError
            out += self._unpack.decompress(chunk, size - len(out))
        return bytes(out)


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises BadInput for a shape that no scan has."""
    if min(shape) < 1 or np.prod([float(n) for n in shape]) > MAX_VOXELS:
        raise BadInput("too_large", f"the header claims the shape {tuple(shape)}")


def slabs(payload: Payload) -> Iterator[np.ndarray]:
    """Whole planes (i, j, n) in order, in native byte order. Raises BadInput for what is cut short or damaged."""

    @contextlib.contextmanager
    def opened() -> Iterator[Stream]:
        with payload.path.open("rb") as stream:
            stream.seek(payload.start)
            yield Inflated(stream) if payload.packed else stream

    return read_slabs(opened, payload.dtype, payload.shape, "truncated", checksum=payload.packed)


def read_slabs(
    opened: Opener, dtype: np.dtype, shape: tuple[int, int, int], short: str, *, checksum: bool
) -> Iterator[np.ndarray]:
    """The same from a stream that begins with the voxels; `short` is the code for one that ends early.

    With `checksum` the stream is read to its end, which lies close behind the voxels.
    """
    plane = shape[0] * shape[1] * dtype.itemsize
    thickness = max(1, SLAB_BYTES // plane)
    with refusals(), opened() as stream:
        for start in range(0, shape[2], thickness):
            length = plane * min(thickness, shape[2] - start)
            data = stream.read(length)
            if len(data) < length:
                raise BadInput(short, f"the voxels end after {start * plane + len(data)} of {plane * shape[2]} bytes")
            voxels = np.frombuffer(data, dtype).reshape((*shape[:2], -1), order="F")
            yield voxels if dtype.isnative else voxels.astype(dtype.newbyteorder("="))
        if checksum:
            _reach_the_end(stream)


def _reach_the_end(stream: Stream) -> None:
    behind = 0
    while data := stream.read(1 << 20):
        behind += len(data)
        if behind > MOST_BEHIND:
            raise BadInput("too_large", f"more than {MOST_BEHIND >> 20} MB are packed after the voxels")


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turns the errors of a stream into the ledger's words."""
    try:
        yield
    except EOFError as error:
        raise BadInput("gzip_truncated", "the compressed stream ends early") from error
    except (gzip.BadGzipFile, isal_zlib.error) as error:
        raise BadInput("gzip_crc", "the compressed stream is damaged") from error
    except OSError as error:
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error


def volume_bytes(shape: tuple[int, int, int], itemsize: int = 2) -> int:
    """Memory that a volume needs at most from its slabs to the canonical grid.

    2 bytes per voxel as HU; one slab, with what is made of it; a share of the planes along any axis as floats.
    """
    voxels = int(np.prod(shape, dtype=np.int64))
    slab = max(SLAB_BYTES, voxels // shape[2] * itemsize) * 10
    planes = max(voxels // n * (n // 32 + 3) * 8 for n in shape)
    return 2 * voxels + slab + planes


def check_memory(shape: tuple[int, int, int], itemsize: int = 2, *, more: int = 0) -> None:
    """Raises BadInput for a volume that does not fit a worker; `more` is what it needs beside."""
    memory.check(volume_bytes(shape, itemsize) + more)


def beside(header: Path, name: str) -> Path:
    """The data file of a header, which must lie in the header's folder, links followed. Raises BadInput."""
    folder = header.parent.resolve()
    try:
        target = (folder / name).resolve()
        inside = target.parent == folder and not Path(name).is_absolute()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput("bad_header", "the header's data file has no valid name") from error
    if not inside:
        raise BadInput("path_outside", "the header's data file lies outside the header's folder: copy it in")
    check_file(target)
    return target
