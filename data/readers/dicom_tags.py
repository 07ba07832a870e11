"""The only DICOM elements that the build reads: never names, dates, addresses or private elements."""

import io
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword

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
OF_HEADERS = [tag_for_keyword(name) for name in (*GEOMETRY.split(), *GROUPS)]
OF_FILES = [*map(tag_for_keyword, ALLOWED), *OVERLAYS]
DEFLATED = b"1.2.840.10008.1.2.1.99"
META = 4096  # bytes that are sure to hold the transfer syntax


def read(source: Path | bytes, *, pixels: bool) -> pydicom.Dataset:
    """The allowed elements of a file. Raises BadInput, also for what has no DICOM header."""
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
            # It would be unpacked at once, however large it is.
            if DEFLATED in stream.read(META):
                raise BadInput("unsupported_format", "deflated DICOM: store it in another transfer syntax")
            stream.seek(0)
            tags = OF_FILES if pixels else OF_HEADERS
            dataset = pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=tags)
            for name in GROUPS:
                for groups in dataset.get(name) or []:
                    _keep(groups, tuple(OF_FRAMES))
                    for group, facts in OF_FRAMES.items():
                        for item in groups.get(group) or []:
                            _keep(item, facts)
            return dataset
    except BadInput:
        raise
    except pydicom.errors.InvalidDicomError as error:
        raise BadInput("not_dicom", "there is no DICOM header") from error
    except EOFError as error:
        raise BadInput("dicom_truncated", "the file ends within an element") from error
    except Exception as error:  # pydicom raises whatever the damage leads to
        raise BadInput("dicom_damaged", f"the header cannot be read ({type(error).__name__})") from error


def _keep(dataset: pydicom.Dataset, names: tuple[str, ...]) -> None:
    for tag in set(dataset.keys()) - {tag_for_keyword(name) for name in names}:
        del dataset[tag]
