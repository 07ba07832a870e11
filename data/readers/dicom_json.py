"""How a film is to be shown, from the JSON of its DICOM header (PS3.18 F.2) that some sets put beside a PNG.

Of the header these elements alone are read: never names, dates or addresses.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset

from data.readers.files import BadInput, read_bytes

SHOWN_BY = (
    "PhotometricInterpretation PresentationLUTShape PresentationIntentType PixelIntensityRelationshipSign "
    "PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept WindowCenter WindowWidth VOILUTFunction "
    "ModalityLUTSequence VOILUTSequence"
)
LUT = ("LUTDescriptor", "LUTData")
MOST_BYTES = 1 << 26


def read(path: Path) -> pydicom.Dataset:
    """The elements of a header that greys depend on. Raises BadInput."""
    content = read_bytes(path, MOST_BYTES)
    try:
        header = _elements(json.loads(content), SHOWN_BY.split())
    except Exception as error:  # pydicom raises whatever the damage leads to
        raise BadInput("dicom_damaged", "the JSON of the header beside the X-ray cannot be read") from error
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian  # the byte order of binary values
    return header


def _elements(content: Mapping[str, Any], names: Sequence[str]) -> pydicom.Dataset:
    elements = pydicom.Dataset()
    for name in names:
        element = content.get(f"{tag_for_keyword(name):08X}", {})
        values = element.get("Value", [])
        if name.endswith("Sequence"):
            values = [_elements(item, LUT) for item in values]
        elif len(values) == 1:
            (values,) = values
        if "InlineBinary" in element:
            values = base64.b64decode(element["InlineBinary"])
        if values not in ([], None):
            setattr(elements, name, values)
    return elements
