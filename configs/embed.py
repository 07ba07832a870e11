"""Embeddings of files by a trained network."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "embed"
    config.checkpoint = ""  # a run's workdir, or an export
    config.network = "student"  # or "teacher": its visual side
    config.source = ""  # a file, a folder, a DICOM series, a manifest (.csv), or reports (.txt, one a line)
    config.out = ""  # .npz or .parquet
    config.maps = ""  # a folder for chosen slices and attention: PNG, and NIfTI on a CT's own voxels
    config.rows = 8  # a batch and device
    config.ct_slices = True  # CTs as trained, with their chosen slices; False: the volume alone
    return config
