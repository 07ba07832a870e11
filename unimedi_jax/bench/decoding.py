"""Decoding compressed DICOM: films a second on one core by the decoder of each coding, beside the others installed."""

import functools
import pathlib
import tempfile
import time

import cv2
import gdcm
import ml_collections
import numpy as np
import pydicom
from pydicom import encaps, uid
from pydicom.pixels import get_decoder, pixel_array

from data.readers import dicom_decoders
from unimedi_jax.bench import measure

FILM = (3056, 2544)  # pixels
BITS = 12  # of a film that is not baseline JPEG
LIBRARY = {"gdcm": "GDCM", "pillow": "Pillow", "pyjpegls": "CharLS"}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures every coding that films of hospitals come in."""
    results = []
    for coding, dataset in films(FILM).items():
        syntax = dataset.file_meta.TransferSyntaxUID
        chosen = dicom_decoders.PLUGIN[syntax]
        others = sorted(set(get_decoder(syntax).available_plugins) - {chosen})
        works = {plugin: functools.partial(_rate, dataset, plugin) for plugin in (chosen, *others)}
        rates = measure.interleaved(works, config.rounds)
        library = LIBRARY | {"pylibjpeg": "OpenJPEG" if coding == "JPEG 2000" else "libjpeg"}
        results += [measure.Result(f"{coding} by {library[plugin]}", "1/s", rates[plugin]) for plugin in works]
        results += [measure.ratio(f"{coding}: ours over {library[one]}", rates[chosen], rates[one]) for one in others]
    measure.report(f"decode: films of {FILM[0]} x {FILM[1]} in DICOM, one core, the first is ours", results, workdir)


def _rate(dataset: pydicom.Dataset, plugin: str) -> float:
    """Films per second of processor time."""
    started = time.process_time()
    pixel_array(dataset, index=0, decoding_plugin=plugin)
    return 1 / (time.process_time() - started)


def films(shape: tuple[int, int]) -> dict[str, pydicom.Dataset]:
    """One noisy film in each coding."""
    rng = np.random.default_rng(0)
    shades = cv2.resize(rng.random((16, 16), np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    grey = np.clip(shades + 0.02 * rng.standard_normal(shape, np.float32), 0, 1)
    _, stream = cv2.imencode(".jpg", (255 * grey).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    deep = (grey * ((1 << BITS) - 1)).astype(np.uint16)
    compressed = {}
    for coding, syntax in (("JPEG-LS", uid.JPEGLSLossless), ("JPEG 2000", uid.JPEG2000Lossless)):
        compressed[coding] = _film(deep, BITS, uid.ExplicitVRLittleEndian, deep.tobytes())
        compressed[coding].compress(syntax)
    return {
        "JPEG": _film(grey, 8, uid.JPEGBaseline8Bit, encaps.encapsulate([stream.tobytes()])),
        "JPEG Lossless": _lossless(deep),
        **compressed,
    }


def _film(grey: np.ndarray, bits: int, syntax: uid.UID, data: bytes) -> pydicom.Dataset:
    film = pydicom.Dataset()
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = syntax
    film.SOPClassUID, film.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, uid.generate_uid()
    film.Rows, film.Columns = grey.shape
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 * (1 + (bits > 8)), bits, bits - 1
    film.PixelData = data
    film["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
    return film


def _lossless(deep: np.ndarray) -> pydicom.Dataset:
    """A film in lossless JPEG, which of all these libraries only GDCM writes."""
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = (str(pathlib.Path(folder, name)) for name in ("plain.dcm", "packed.dcm"))
        _film(deep, BITS, uid.ExplicitVRLittleEndian, deep.tobytes()).save_as(plain, enforce_file_format=True)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(plain)
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        writer.SetFileName(packed)
        read = reader.Read()
        change.SetInput(reader.GetImage())
        changed = read and change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not (changed and writer.Write()):
            raise RuntimeError("GDCM does not write lossless JPEG")
        return pydicom.dcmread(packed)
