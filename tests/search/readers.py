"""What a reader may do to the process that it runs in. Imported there, so without the rest of the tests."""

import os
import pathlib
import signal
import time
from typing import Any

import numpy as np

Answer = tuple[dict[str, Any], np.ndarray | None]


def dies(_: object) -> Answer:
    """As a decoder on a damaged stream."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def sleeps(_: object) -> Answer:
    """Without end."""
    time.sleep(600)
    raise AssertionError


def writes(folder: pathlib.Path) -> Answer:
    """A file of its own."""
    try:
        (folder / "written").write_bytes(b"x" * 100)
    except OSError as error:
        return {"reason": f"no file: {error.strerror}"}, None
    return {"reason": "a file was written"}, None


def grows(_: object) -> Answer:
    """Beyond all memory."""
    return {"reason": f"{np.ones(1 << 34).sum()} ones"}, None


def lies(_: object) -> Answer:
    """Sends more than a picture."""
    return {"modality": "xray", "shape": (256, 256)}, np.zeros(10**6)


def boasts(_: object) -> Answer:
    """Names what there is not."""
    return {"modality": "mri", "shape": (1,)}, np.zeros(1)


def swells(_: object) -> Answer:
    """Names a picture of another size than records have."""
    return {"modality": "xray", "shape": (4096, 4096)}, np.zeros((4096, 4096), np.uint8)
