"""The only DICOM elements that the build reads: never names, dates, addresses or private elements."""

import io
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pydicom
from pydicom import filereader, uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from data.readers.dicom_bits import OVERLAYS
from data.readers.files import BadInput

GEOMETRY = (
    "Modality SeriesInstanceUID ImageType NumberOfFrames Rows Columns PixelSpacing ImageOrientationPatient "
    "ImagePositionPatient InstanceNumber RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence"
)
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
OF_FRAMES = {  # what is read of the groups: the others hold times and references
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "CTImageFrameTypeSequence": ("FrameType",),
}
PIXELS = (
    "PixelData BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PlanarConfiguration "
    "PhotometricInterpretation PixelPaddingValue PixelPaddingRangeLimit VOILUTSequence "
    "VOILUTFunction WindowCenter WindowWidth ExtendedOffsetTable ExtendedOffsetTableLengths BurnedInAnnotation "
    "ViewPosition PatientOrientation ImagerPixelSpacing NominalScannedPixelSpacing PixelAspectRatio "
    "PresentationLUTShape PresentationIntentType PixelIntensityRelationshipSign"
)
ALLOWED = (*GEOMETRY.split(), *PIXELS.split())
OF_FILES = [*(Tag(tag_for_keyword(name)) for name in ALLOWED), *OVERLAYS]
OF_HEADERS = [*OF_FILES, *(Tag(tag_for_keyword(name)) for name in GROUPS)]
PIXEL_DATA = 0x7FE00010
OTHER_PIXELS = {0x7FE00008, 0x7FE00009}  # of floats, which no CT or X-ray has
UNDEFINED = 0xFFFFFFFF  # the length of pixels that are compressed
DEFLATED = b"1.2.840.10008.1.2.1.99"
META = 4096  # bytes that are sure to hold the transfer syntax


Known = dict[tuple[str | None, int, bytes | None], DataElement]


class Place(NamedTuple):
    """Where in a file its uncompressed pixels lie, in bytes."""

    start: int
    length: int


def read(source: Path | bytes, *, pixels: bool) -> pydicom.Dataset:
    """The allowed elements of a file. Raises BadInput, also for what has no DICOM header."""
    return _read(source, whole=pixels)[0]


def read_header(path: Path) -> tuple[pydicom.Dataset, Place | None]:
    """The allowed elements before the pixels, and where these lie, None for compressed ones. Raises BadInput."""
    return _read(path)


def _read(source: Path | bytes, *, whole: bool = False) -> tuple[pydicom.Dataset, Place | None]:
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
            # It would be unpacked at once, however large it is.
            if DEFLATED in stream.read(META):
                raise BadInput("unsupported_format", "deflated DICOM: store it in another transfer syntax")
            stream.seek(0)
            if whole:
                dataset, place = pydicom.dcmread(stream, specific_tags=OF_FILES), None
            else:
                dataset, place = _before_pixels(stream)
            for name in GROUPS:
                for groups in dataset.get(name) or []:
                    _keep(groups, tuple(OF_FRAMES))
                    for group, facts in OF_FRAMES.items():
                        for item in groups.get(group) or []:
                            _keep(item, facts)
            return dataset, place
    except BadInput:
        raise
    except pydicom.errors.InvalidDicomError as error:
        raise BadInput("not_dicom", "there is no DICOM header") from error
    except EOFError as error:
        raise BadInput("dicom_truncated", "the file ends within an element") from error
    except Exception as error:  # pydicom raises whatever the damage leads to
        raise BadInput("dicom_damaged", f"the header cannot be read ({type(error).__name__})") from error


def _before_pixels(stream: BinaryIO) -> tuple[pydicom.Dataset, Place | None]:
    place = None

    def is_pixels(tag: int, vr: str | None, length: int) -> bool:
        nonlocal place
        if tag == PIXEL_DATA and length != UNDEFINED:
            place = Place(stream.tell(), length)
        return tag == PIXEL_DATA or tag in OTHER_PIXELS

    dataset = filereader.read_partial(stream, is_pixels, specific_tags=OF_HEADERS)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return dataset, place if syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian) else None


def share(header: pydicom.Dataset, known: Known) -> None:
    """Takes the values of a header that another one of its series has from there: reading a number out of text is slow.

    `known` holds what the series had so far. A value that cannot be read is left as it is, for whoever asks for it.
    """
    for raw in [element for element in header.values() if isinstance(element, RawDataElement)]:
        bytes_ = raw.VR, raw.tag, raw.value
        if (element := known.get(bytes_)) is None:
            try:
                known[bytes_] = header[raw.tag]
            except Exception:  # pydicom raises whatever the damage leads to
                continue
        else:
            header[raw.tag] = element


def _keep(dataset: pydicom.Dataset, names: tuple[str, ...]) -> None:
    for tag in set(dataset.keys()) - {tag_for_keyword(name) for name in names}:
        del dataset[tag]
