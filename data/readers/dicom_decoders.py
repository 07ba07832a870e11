"""Which decoder reads which coding of DICOM pixels: the same one on every machine, whatever else is installed.

pydicom would take the first plugin that it can import, so that a package of another project changes pixels. GDCM aborts
its process on some damaged streams; it runs where that costs one file.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pydicom
from pydicom import encaps, uid
from pydicom.pixels import get_decoder, pixel_array

from data import child_processes
from data.readers.files import BadInput

CODINGS = {  # the coding's name in a contract, its plugin of pydicom and the transfer syntaxes
    "RLE": ("pydicom", (uid.RLELossless,)),
    "JPEG": ("pillow", (uid.JPEGBaseline8Bit,)),
    "JPEG Extended": ("pylibjpeg", (uid.JPEGExtended12Bit,)),  # of libjpeg, GPL: requirements-gpl.txt
    "JPEG Lossless": ("gdcm", (uid.JPEGLossless, uid.JPEGLosslessSV1)),
    "JPEG-LS": ("pyjpegls", (uid.JPEGLSLossless, uid.JPEGLSNearLossless)),
    "JPEG 2000": ("pylibjpeg", (uid.JPEG2000Lossless, uid.JPEG2000)),  # of OpenJPEG
    "HTJ2K": ("pylibjpeg", (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)),
}
PLUGIN = {syntax: plugin for plugin, syntaxes in CODINGS.values() for syntax in syntaxes}
GPL = "pip install -r requirements-gpl.txt"
MAY_ABORT = ("gdcm",)
ELEMENTS = (
    "Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PlanarConfiguration "
    "PhotometricInterpretation"
)


def plugins() -> dict[str, str]:
    """The decoder of each coding, for a set's contract; `absent` for one that is not installed."""
    return {
        f"decoder of {coding}": plugin if _installed(plugin, syntaxes[0]) else "absent"
        for coding, (plugin, syntaxes) in CODINGS.items()
    }


def check(syntax: uid.UID) -> None:
    """Refuses a coding without an installed decoder, and names what it needs. Raises BadInput."""
    if syntax not in PLUGIN:
        raise BadInput("plugin_missing", f"nothing here decodes {syntax.name}: convert the file")
    plugin = PLUGIN[syntax]
    if not _installed(plugin, syntax):
        remedy = GPL if syntax == uid.JPEGExtended12Bit else "pip install -r requirements.txt"
        raise BadInput("plugin_missing", f"{syntax.name} needs a decoder that is not installed: {remedy}")


def pixels(dataset: pydicom.Dataset, syntax: uid.UID, frame: int | None, **options: Any) -> np.ndarray:
    """`pydicom.pixels.pixel_array` of a compressed picture by the decoder of its coding; `options` go to it.

    Raises BadInput where the decoder ended its process, and whatever pydicom raises.
    """
    plugin = PLUGIN[syntax]
    if plugin not in MAY_ABORT:
        return pixel_array(dataset, index=frame, decoding_plugin=plugin, **options)
    one = _one_frame(dataset, syntax, frame or 0)
    work = functools.partial(pixel_array, one, decoding_plugin=plugin, **options)
    if multiprocessing.parent_process() is not None:  # a worker: who started it replaces it
        return work()
    try:
        with child_processes.block_signals(signal.SIGINT):
            result = _apart().submit(work)
        return result.result()
    except BrokenProcessPool as error:
        _apart.cache_clear()
        raise BadInput("reader_crashed", "the decoder ended its process: the pixels are damaged") from error


def _installed(plugin: str, syntax: uid.UID) -> bool:
    return plugin in get_decoder(syntax).available_plugins


def _one_frame(dataset: pydicom.Dataset, syntax: uid.UID, frame: int) -> pydicom.Dataset:
    """What a decoder needs of one frame, small enough to be sent to another process."""
    one = pydicom.Dataset()
    for name in ELEMENTS.split():
        if name in dataset:
            one[name] = dataset[name]
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = syntax
    count = int(dataset.get("NumberOfFrames") or 1)
    one.PixelData = encaps.encapsulate([encaps.get_frame(dataset.PixelData, frame, number_of_frames=count)])
    one["PixelData"].VR = "OB"
    return one


@functools.cache
def _apart() -> concurrent.futures.ProcessPoolExecutor:
    """The process for decoders that may abort; it is started with the first picture that needs one."""
    child_processes.start_tracker()  # a pool's locks would start it with its warnings
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=_silent)


def _silent() -> None:
    """The decoders print to the terminal what is wrong with a stream; the ledger has the reason."""
    child_processes.exit_with_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
