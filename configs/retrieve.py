"""Retrieval and zero-shot with a trained model: configs/retrieve.py:<built set>, the phantom without one."""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "retrieve"
    config.checkpoint = ""  # a run's workdir or an export
    config.network = "student"  # or "teacher"
    config.data = arg or "phantom"
    config.data_dir = "records"
    config.untrained = True  # the same with a model that has learnt nothing, beside it
    config.ct_slices = True  # CTs as trained, with their chosen slices; False: the volume alone
    config.each = 200  # patients a finding of the precision at k (CheXpert 5x200)
    config.rows = 32  # a device, when embedding
    config.resamples = 1000  # of the bootstrap intervals
    return config
