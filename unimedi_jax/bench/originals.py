"""Synthetic originals of the sizes that hospitals deliver, and the usual way to shrink a CT."""

import csv
import pathlib

import cv2
import nibabel
import numpy as np
import pydicom
from pydicom import uid
from scipy import ndimage

XRAY = (3056, 2544)  # pixels of MIMIC-CXR-JPG
CT = (512, 512, 300)  # voxels x, y, z
SPACING = (0.7, 0.7, 1.0)  # mm
VOLUME = (32, 128, 128)  # z, y, x, of a network
DEEP = 12  # bits of a film that is no JPEG
REPORT = "The heart is normal in size. There is a small effusion on the left. No pneumothorax. Bones are intact."


def zoomed(file: pathlib.Path) -> np.ndarray:
    """A NIfTI file at the network's size by nibabel's `get_fdata`, hence in float64, and scipy's linear zoom."""
    volume = nibabel.load(file).get_fdata().transpose(2, 1, 0)
    return ndimage.zoom(volume, [new / old for new, old in zip(VOLUME, volume.shape, strict=True)], order=1)


def make(folder: pathlib.Path, xrays: int, cts: int) -> pathlib.Path:
    """Writes JPEGs and compressed NIfTIs with their manifest, unless they exist; returns the manifest's path."""
    path = folder / f"{xrays}-{cts}.csv"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = [("path", "modality", "report", "patient", "split")]
    for number in range(xrays):
        file = folder / f"film{number}.jpg"
        cv2.imwrite(str(file), _make_xray(rng), [cv2.IMWRITE_JPEG_QUALITY, 95])
        rows.append((file.name, "xray", REPORT, f"patient{number}", "train"))
    for number in range(cts):
        file = folder / f"scan{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(_make_ct(rng), np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])), file)
        rows.append((file.name, "ct", REPORT, f"patient{xrays + number}", "train"))
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows(rows)
    return path


def _make_xray(rng: np.random.Generator) -> np.ndarray:
    """Shades of all sizes under noise: 1.5 MB as JPEG, the mean of MIMIC-CXR-JPG's 377,110 films."""
    coarse = [rng.random((n, n), np.float32) for n in (4, 16, 64)]
    coarse = sum(cv2.resize(x, XRAY[::-1], interpolation=cv2.INTER_CUBIC) for x in coarse)
    noise = rng.standard_normal(XRAY, np.float32)
    return np.clip(60 * coarse + 1.75 * noise + 30, 0, 255).astype(np.uint8)


def _make_ct(rng: np.random.Generator) -> np.ndarray:
    """A body of soft tissue with lungs, in air, and the noise of a scanner: about 60 MB compressed."""
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in CT)]
    volume = np.where(x**2 / 0.72 + y**2 / 0.4 < 1, 40.0, -1000.0) + np.zeros_like(z)
    for side in (-0.35, 0.35):
        volume = np.where((x - side) ** 2 / 0.06 + y**2 / 0.12 + z**2 / 0.7 < 1, -850.0, volume)
    shades = ndimage.zoom(rng.standard_normal([n // 10 for n in CT]), [n / (n // 10) for n in CT], order=1)
    noise = rng.standard_normal(CT, np.float32)
    return np.where(volume > -1000, volume + 20 * shades + 12 * noise, -1000 + np.abs(4 * noise)).astype(np.int16)


def make_deep(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A film of 12 bits as PNG and as DICOM, unless they exist."""
    png, dicom = folder / "deep.png", folder / "deep.dcm"
    if not (png.exists() and dicom.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        grey = _make_xray(np.random.default_rng(0)).astype(np.uint16) << (DEEP - 8)
        cv2.imwrite(str(png), grey)
        _dicom(grey, Modality="DX").save_as(dicom, enforce_file_format=True)
    return png, dicom


def make_series(folder: pathlib.Path) -> pathlib.Path:
    """A CT as a folder of uncompressed DICOM slices, unless it exists."""
    place = folder / "series"
    if not place.exists():
        partial = folder / "series.partial"
        partial.mkdir(parents=True, exist_ok=True)
        volume = _make_ct(np.random.default_rng(0))
        elements = {
            "Modality": "CT",
            "SeriesInstanceUID": uid.generate_uid(),
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [SPACING[1], SPACING[0]],
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        }
        for index in range(volume.shape[2]):
            pixels = np.ascontiguousarray(volume[..., index].T + 1024)
            own = {"InstanceNumber": index + 1, "ImagePositionPatient": [0, 0, SPACING[2] * index]}
            _dicom(pixels, **elements, **own).save_as(partial / f"{index:04d}.dcm", enforce_file_format=True)
        partial.rename(place)
    return place


def _dicom(pixels: np.ndarray, **elements: object) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ct = elements["Modality"] == "CT"
    dataset.SOPClassUID = uid.CTImageStorage if ct else uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid.generate_uid()
    bits = 16 if ct else DEEP
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset
