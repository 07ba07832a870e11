"""Every code of a rejected row or a note, what it means and what to do: the tables of docs/reasons.md."""

REJECTED = {
    # files
    "missing_image": ("the path is blank, or nothing is there", "correct the path"),
    "missing_mask": ("there is nothing at the mask's path", "correct the path"),
    "missing_file": ("a file that a header or folder needs is not there", "copy the whole case"),
    "io_error": ("the file cannot be read: permissions, a loop of links, a folder for a file", "check the path"),
    "empty_file": ("the file has no bytes", "copy or download it again"),
    "empty_folder": ("the folder holds no DICOM file", "check the path"),
    "path_outside": (
        "a relative path, link or header leads out of its folder",
        "copy the file in (`cp -L`), or name it in full",
    ),
    "lfs_pointer": ("a Git LFS pointer, not the content", "run `git lfs pull`"),
    "hash_mismatch": ("the bytes are not those of the manifest's sha256", "copy or download it again"),
    "nothing_to_crop": (
        "a scan without the lungs, or the body, that config.crop_to crops to",
        "leave it out, or build without config.crop_to",
    ),
    "too_large": (
        "more bytes, pixels or voxels than any X-ray or scan has, or than a worker may hold",
        "check what file it is, or raise config.worker_memory_gb",
    ),
    "unsupported_format": ("a kind of file that is not read", "convert it: PNG or DICOM, NIfTI or NRRD"),
    "reader_crashed": ("reading it ended the worker process: memory, or a fault in a decoder", "convert it"),
    "unreadable": ("damage that no other code names", "open it with another program"),
    # X-rays
    "not_an_image": ("neither an image nor DICOM, such as a saved error page", "download it again"),
    "jpeg_truncated": ("a JPEG without its end", "copy or download it again"),
    "truncated": ("a picture, MetaImage or NRRD that ends early or is damaged", "copy or download it again"),
    "multi_frame": ("several images in one file", "give each image a row"),
    "unsupported_colour": ("CMYK, palettes in DICOM", "convert it to grey values"),
    "coloured": ("many colours: a photograph, a colour map", "leave it out"),
    "constant_image": ("every pixel has the same value", "leave it out"),
    "nonfinite": ("NaN or infinite pixels or voxels", "export it again"),
    "too_small": ("fewer than 32 pixels per side", "find the original, not its thumbnail"),
    # DICOM
    "not_dicom": ("no DICOM header", "check what file it is"),
    "dicom_damaged": ("the header cannot be read", "export it again"),
    "dicom_truncated": ("the file or its pixels end early", "copy or download it again"),
    "dicom_pixels": ("the pixels cannot be decoded, or do not fit their header", "export it again"),
    "plugin_missing": ("a compression without an installed decoder, named in the reason", "install it, or convert"),
    "no_pixels": ("an object without a picture", "leave it out"),
    "bits_conflict": (
        "bits beside those that BitsStored and HighBit name hold values, or a compressed stream is wider than they say",
        "correct BitsStored and HighBit",
    ),
    "bad_lut": ("a lookup table whose entries do not fit its descriptor", "export it again"),
    "film_orientation": ("PatientOrientation is not possible for a chest X-ray", "correct or remove it"),
    "wrong_modality": ("DICOM of another kind than the row says", "correct the row's modality"),
    "single_dicom": ("one DICOM slice for a CT", "name the folder that holds the series"),
    "enhanced_unsupported": (
        "a multi-frame CT with frames without a position, or several at one (stacks, times, energies)",
        "export one volume as a series or NIfTI",
    ),
    "mixed_series": ("several CT series in one folder", "give each its own folder"),
    "mixed_size": ("slices of different sizes", "remove slices of other series"),
    "mixed_orientation": ("slices of different directions", "remove slices of other series"),
    "slices_at_one_place": (
        "different slices at one position: phases, times or energies in one series",
        "give each phase its own folder",
    ),
    "shifted_slices": ("slices that are shifted against each other in their plane", "export it again on one grid"),
    "uneven_slices": ("gaps between slices differ by more than a tenth", "find the missing slices"),
    # volumes
    "gzip_truncated": ("the gzip stream ends early", "copy or download it again"),
    "gzip_crc": ("the gzip stream is damaged", "copy or download it again"),
    "not_gzip": ("named .gz, but no gzip stream", "rename it"),
    "not_nifti": ("no NIfTI header, or that of another kind of file", "check what file it is"),
    "nifti_header": ("dimensions, data type or scaling that NIfTI does not know", "export it again"),
    "nifti_short": ("fewer bytes than the header says", "copy or download it again"),
    "not_nrrd": ("no NRRD header", "check what file it is"),
    "bad_header": ("a MetaImage or NRRD header that lacks a field", "export it again"),
    "unsupported_header": ("voxels as text, one file per slice, odd codings", "export it as one raw or gzip file"),
    "not_scalar": ("colours or complex numbers", "export grey values"),
    "not_3d": ("not three-dimensional", "give each volume a row"),
    "too_few_slices": ("fewer than config.min_slices along an axis", "leave it out, or lower config.min_slices"),
    "no_orientation": ("left and right are unknown", "export it again, or set config.assume (NIfTI)"),
    "no_geometry": (
        "a header that was never filled in, and slices that are not axial in the set's table",
        "take the set's later release",
    ),
    "affine_conflict": ("two geometries in one header that disagree", "export it again"),
    "bad_affine": ("a geometry that is not valid", "export it again"),
    "bad_spacing": ("voxels of a size that no scanner makes, or of different sizes", "correct the header"),
    "oblique": ("more than 30 degrees off the patient's axes", "reformat it"),
    "no_rescale": ("slope and intercept are missing: no Hounsfield units", "export it again"),
    "not_hu": ("no air: raw numbers, or MR", "apply slope and intercept"),
    "double_rescale": ("rescaled twice: air near -2000", "set the header's slope to 1 and intercept to 0"),
    "constant_volume": ("every voxel has the same value", "leave it out"),
    "mask_geometry": ("the mask has another grid than its picture", "resample the mask"),
    "mask_values": ("the mask holds fractions, or too many different numbers", "store labels, not probabilities"),
    # rows
    "bad_encoding": ("bytes that are not UTF-8 in an otherwise UTF-8 file", "save the manifest as CSV in UTF-8"),
    "wrong_fields": ("more or fewer fields than the header", "quote the fields"),
    "bad_modality": ("neither xray nor ct", "correct the row"),
    "bad_split": ("not train, val, test or blank", "correct the row"),
    "bad_label": ("not 1, 0, -1 or blank", "correct the row"),
    "bad_hash": ("sha256 is no hash, or of a folder", "correct the row"),
    "no_patient": ("the row names no patient", "give every row one: splits go by patient"),
    "rounded_patient": ("a patient such as 1.23E+11", "export the table again, with that column as text"),
    "empty_report": ("the report has no words", "leave it out"),
    "wrong_language": ("the report is in another language than config.language", "translate it, or empty the setting"),
    "no_translation": ("the report has no English, or one that failed its checks", "see the table of translations"),
    "duplicate_row": ("the manifest has the same row already", "nothing to do"),
    "duplicate_path": ("an earlier row names the same file with other content", "decide which is right"),
    "leak_patient": ("the patient is in two splits", "give the patient one"),
    "other_modality": (
        "of a modality that the network, or the head, has not learnt (embed, predict, search)",
        "use one trained on it",
    ),
}

NOTES = {
    "wrong_extension": "the file's suffix is not that of its content",
    "exif_turned": "turned upright by its EXIF orientation",
    "colour": "tinted or marked in colour, converted to grey",
    "burned_in": "DICOM says that text is burned into the picture",
    "lateral_view": "DICOM says that the view is lateral",
    "maybe_inverted": "the upper corners are brighter than the middle",
    "duplicate_slices": "copies of a slice at one position; the first instance was used",
    "film_turned": "turned so that its columns run to the feet and its rows to the patient's left (PatientOrientation)",
    "stretched": "its pixels are not square; stretched to square ones",
    "lut_bits_corrected": "the VOI LUT's entries have other bits than it says; white is the largest number of theirs",
    "window_ignored": "the VOI LUT or window leaves nothing to see, as one of another depth; percentiles were used",
    "shape_inverse": "inverted: MONOCHROME2 with PresentationLUTShape INVERSE",
    "for_processing": "the detector's own numbers (FOR PROCESSING), not made for viewing",
    "no_rescale_but_hu": "no slope and intercept, but air has the value that it has in Hounsfield units",
    "oblique_straightened": "more than 15 degrees off the patient's axes, resampled",
    "metal_clipped": "voxels above 8,000, clipped",
    "maybe_wrong_region": "hardly any lung",
    "boxes_clipped": "a box of the set's table reached beyond its X-ray",
    "geometry_by_table": "spacing, axes or place are those of the set's table: the header was never filled in",
    "rescaled_by_table": "slope and intercept of the set's table were applied: the file holds no Hounsfield units",
}


def markdown() -> str:
    """The two tables of docs/reasons.md."""
    lines = ["| code | what it means | what to do |", "|---|---|---|"]
    lines += [f"| `{code}` | {meaning} | {remedy} |" for code, (meaning, remedy) in REJECTED.items()]
    lines += ["", "| note | what it means |", "|---|---|"]
    lines += [f"| `{code}` | {meaning} |" for code, meaning in NOTES.items()]
    return "\n".join(lines) + "\n"
