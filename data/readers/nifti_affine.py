"""The geometry of a NIfTI header, which libraries mend in silence where it is missing or contradicts itself."""

import nibabel
import numpy as np
from nibabel import affines

from data.readers.files import BadInput

MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units & 7: unknown, metre, millimetre, micron


def of_header(header: nibabel.Nifti1Header, assume: str = "") -> np.ndarray:
    """Index to millimetres in LPS, from sform before qform. Raises BadInput where they are missing or disagree.

    `assume` is used where both are missing: the directions in which the three axes grow, such as "LPS" or "RAS".
    """
    scale = MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if scale is None:
        raise BadInput("bad_spacing", "the header's unit of length is none that NIfTI knows")
    sizes = np.array(header["pixdim"][1:4], np.float64)
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise BadInput("bad_spacing", f"pixdim is {', '.join(f'{s:g}' for s in sizes)}")
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform and not has_qform and assume:
        return affines.from_matvec(_directions(assume) * sizes * scale)
    if not has_sform and not has_qform:
        raise BadInput(
            "no_orientation", "neither sform nor qform is set: left and right are unknown (config.assume=LPS tells)"
        )
    try:
        sform = header.get_sform() if has_sform else None
        qform = header.get_qform() if has_qform else None
    except Exception as error:
        raise BadInput("bad_affine", "the quaternion of the qform is not valid") from error
    affine = np.array(sform if has_sform else qform, np.float64)
    if not np.isfinite(affine).all():
        raise BadInput("bad_affine", "the affine has NaN or infinite numbers")
    if has_sform and has_qform and np.abs(sform[:3, :3] - qform[:3, :3]).max() > 1e-3 * sizes.max():
        raise BadInput("affine_conflict", "sform and qform give different directions or sizes")
    if np.abs(affines.voxel_sizes(affine) / sizes - 1).max() > 0.01:
        raise BadInput("affine_conflict", "the affine and pixdim give different voxel sizes")
    return np.diag([-scale, -scale, scale, 1.0]) @ affine  # NIfTI counts toward Right and Anterior


def _directions(letters: str) -> np.ndarray:
    """A matrix whose columns are the axes that letters such as "RAS" name, in LPS."""
    toward = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    columns = np.zeros((3, 3))
    for column, letter in enumerate(letters):
        row, sign = toward[letter]
        columns[row, column] = sign
    return columns
