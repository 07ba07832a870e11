"""Collects what identifies a patient in a raw source. Only the audit reads these elements, to search for them."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel
import PIL.Image
import pydicom
from pydicom import datadict

from data.readers import dicom_series

# Beside every name of a person; wherever in the header they stand, within sequences too.
IDENTIFYING = (
    "PatientID OtherPatientIDs PatientBirthDate PatientAddress PatientTelephoneNumbers PatientComments "
    "MedicalRecordLocator AdmissionID "
    "AccessionNumber StudyID FillerOrderNumberImagingServiceRequest PlacerOrderNumberImagingServiceRequest "
    "RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID "
    "StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID ReferencedSOPInstanceUID "
    "InstitutionName InstitutionAddress StationName DeviceSerialNumber DeviceUID"
)
SEARCHED = frozenset(IDENTIFYING.split())
OF_PERSONS, SEQUENCE = "PN", "SQ"
NIFTI_TEXT = ("descrip", "aux_file", "db_name", "intent_name")
SHORTEST, SHORTEST_NUMBER = 4, 6
COMMON = "none unknown anonymous anonymized anon test simpleitk nifti unnamed chest xray"


def is_identifying(folded: str) -> bool:
    """Whether a match of this text means anything: not if it is short, a small number or a stock word."""
    shortest = SHORTEST_NUMBER if folded.replace(" ", "").isdigit() else SHORTEST
    return len(folded) >= shortest and folded not in COMMON.split()


def of_file(folder: Path, path: str) -> tuple[list[tuple[str, str]], int]:
    """(kind, value) of every identifier in a row's file or series, and how many files cannot be read."""
    names: list[tuple[str, str]] = []
    unreadable = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in _files(folder / path) if path else ():
            try:
                names += _of_one(file)
            except Exception:  # of whatever library: the build reports what is wrong with it
                unreadable += 1
    return names, unreadable


def _files(target: Path) -> list[Path]:
    """The files that the build would read; the target itself, which cannot be read, where there are none."""
    with contextlib.suppress(OSError):
        if target.is_dir():
            return dicom_series.files(target) or [target]
    return [target]


def _identifying(dataset: pydicom.Dataset) -> Iterator[pydicom.DataElement]:
    """The elements to search for, at any depth. No other is decoded, so that damage there costs none of these."""
    for tag in sorted(dataset.keys()):
        stated, known = dataset.get_item(tag).VR, datadict.dictionary_has_tag(tag)
        kind = datadict.dictionary_VR(tag) if known else stated
        if kind == SEQUENCE:
            for item in dataset[tag].value:
                yield from _identifying(item)
        elif kind == OF_PERSONS or datadict.keyword_for_tag(tag) in SEARCHED:
            yield dataset[tag]


def _spellings(value: str, representation: str) -> Iterator[str]:
    """A value as it may be written in a text: of a name each script, and the given name first or last (PS3.5, 6.2)."""
    if representation != OF_PERSONS:
        yield value
        return
    for group in value.split("="):
        family, *others = group.split("^")
        yield " ".join([family, *others])
        if others:
            yield f"{others[0]} {family}"


def _of_one(file: Path) -> Iterator[tuple[str, str]]:
    with file.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        for element in _identifying(pydicom.dcmread(file, stop_before_pixels=True)):
            values = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
            for value in values:
                for spelling in _spellings(str(value), element.VR):
                    yield f"DICOM {element.keyword or element.tag}", spelling
    elif file.name.lower().endswith((".nii", ".nii.gz", ".hdr")):
        header = nibabel.load(file).header
        for name in NIFTI_TEXT:
            yield f"NIfTI {name}", bytes(header[name].item()).decode("latin-1").strip("\0 ")
    elif head[:4] in (b"\x89PNG", b"II*\0", b"MM\0*") or head[:2] == b"\xff\xd8":
        with PIL.Image.open(file) as picture:
            written = {**picture.info, **dict(picture.getexif())}
        for name, value in written.items():
            if isinstance(value, str):
                yield f"picture {name}", value
