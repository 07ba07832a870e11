"""Reads an upload in a process of its own, which is ended with it: whatever the bytes do, they do it there.

The files of an upload lie in a folder of their own for as long as they are read, under numbers: of a name that came
with them only an ending that readers know is used. The process may write no file, leaves no memory dump, has limits of
time and memory, and answers with plain bytes: nothing of it is unpickled.
"""

import json
import math
import multiprocessing
import os
import pathlib
import resource
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from data import child_processes, plain
from data.errors import UserError
from data.manifest.reading import Reading
from data.readers import memory
from data.record_grid import MOST_VOXELS, RecordGrid
from data.source import Rejected
from unimedi_jax.inference import sources

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".dcm", ".dicom", ".ima", *sources.PICTURES)
DTYPES = {"xray": np.uint8, "ct": np.int16}
Answer = tuple[dict[str, Any], np.ndarray | None]
LONGEST_ANSWER = 4096  # bytes of its first line
LONGEST_VIEW = 16  # letters of a DICOM code
SPARE_GB = 4.0  # of addresses beside the memory that a picture may take: libraries, their threads' stacks


class UploadError(Exception):
    """An upload that is no X-ray or CT that can be read: why, in our own words."""


def shapes(grid: RecordGrid) -> dict[str, tuple[int | None, ...]]:
    """The shapes of records on a grid, by modality; None is as long as the scan makes it."""
    return {"xray": (grid.film_size,) * 2, "ct": grid.volume_shape}


def read_folder(folder: pathlib.Path, reading: Reading) -> Answer:
    """What an upload is, {"modality", "shape", "view"} and its pixels, or why it is none, {"reason": ...}."""
    try:
        items, _ = sources.find(folder, reading)
    except UserError:
        kinds = ", ".join(ENDINGS)
        return {"reason": f"unsupported_format: no picture that is read; the file's name ends in one of {kinds}"}, None
    except Exception as error:  # what no reader knows is this upload's own affair
        return {"reason": f"unreadable: {type(error).__name__}"}, None
    if len(items) != 1:
        return {"reason": f"{len(items)} pictures in one upload: send one X-ray, one CT file or one DICOM series"}, None
    refused: list[Rejected] = []
    pixels = [x for _, x in sources.read(items, items[0].modality, refused)]
    if not pixels:
        return {"reason": refused[0].reason}, None
    return {"modality": items[0].modality, "shape": pixels[0].shape, "view": items[0].view[:LONGEST_VIEW]}, pixels[0]


class Decoder:
    """Decodes one upload at a time. Processes are forked from one that holds the readers and nothing else."""

    def __init__(
        self, read: Callable[[pathlib.Path], Answer], grid: RecordGrid, *, seconds: float, gigabytes: float
    ) -> None:
        """`read` is what a process does with the upload's folder, `seconds` and `gigabytes` are its limits."""
        self._limits, self._grid, self._read = (seconds, gigabytes), grid, read
        self._lock = threading.Lock()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "cv2", "gdcm"])

    def read(self, files: Sequence[tuple[str, memoryview]]) -> tuple[str, np.ndarray, str]:
        """Modality, pixels as in records, X-ray uint8 (y, x) or CT int16 HU (z, y, x), and the view.

        Raises:
            UploadError: it cannot be read, takes too long or too much memory, or ends the process.
        """
        with self._lock, tempfile.TemporaryDirectory(prefix="unimedi-upload-") as folder:
            for number, (name, content) in enumerate(files):
                (pathlib.Path(folder) / f"{number:05d}{_ending(name)}").write_bytes(content)
            process, pipe = self._started(folder)
            late = threading.Timer(self._limits[0], process.kill)
            late.start()
            try:
                return _received(pipe, self._grid)
            except (EOFError, OSError, ValueError, LookupError, TypeError) as error:  # whatever is left of an answer
                if not late.is_alive():
                    raise UploadError(f"too_slow: it cannot be read in {self._limits[0]:g} s") from error
                raise UploadError("reader_crashed: reading the file ended the process that read it") from error
            finally:
                late.cancel()
                pipe.close()
                process.kill()
                process.join()

    def _started(self, folder: str) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_decode, args=(theirs, self._read, folder, *self._limits))
        with child_processes.block_signals(signal.SIGINT, signal.SIGTERM):
            process.start()
        theirs.close()
        return process, ours


def _ending(name: str) -> str:
    """The ending of a file's name, if it is one of those that readers know; the bytes decide about the rest."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


def _received(pipe: Connection, grid: RecordGrid) -> tuple[str, np.ndarray, str]:
    """The answer of the process; OSError or ValueError where it is not as it should be, EOFError where it ends."""
    answer = json.loads(pipe.recv_bytes(LONGEST_ANSWER))
    if "reason" in answer:
        raise UploadError(plain.text(str(answer["reason"])[:500]))
    shape, dtype = tuple(map(int, answer["shape"])), DTYPES[answer["modality"]]
    expected = shapes(grid)[answer["modality"]]
    fits = all(n == known or (known is None and n > 0) for n, known in zip(shape, expected, strict=True))
    if not fits or math.prod(shape) > MOST_VOXELS:
        raise ValueError(f"{shape} pixels")
    data = pipe.recv_bytes(math.prod(shape) * np.dtype(dtype).itemsize)
    return answer["modality"], np.frombuffer(data, dtype).reshape(shape), str(answer.get("view", ""))


def _decode(
    pipe: Connection, read: Callable[[pathlib.Path], Answer], folder: str, seconds: float, gigabytes: float
) -> None:
    """The process: one folder in, one picture out."""
    child_processes.exit_with_parent()
    import cv2

    cv2.setNumThreads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print what is wrong with a stream
    _limit(seconds, gigabytes)
    answer, pixels = memory.limited(read, gigabytes, pathlib.Path(folder))
    pipe.send_bytes(json.dumps(answer).encode())
    if pixels is not None:
        pipe.send_bytes(np.ascontiguousarray(pixels).tobytes())


def _limit(seconds: float, gigabytes: float) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write is an error of its own, not the end
    addresses = int((gigabytes + SPARE_GB) * memory.GIGABYTE)
    limits = {resource.RLIMIT_AS: addresses, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    limits[resource.RLIMIT_CPU] = int(seconds) + 5
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
