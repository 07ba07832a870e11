"""Every evaluation that a data folder allows: --config.checkpoint=runs/... --config.data_dir=records.

Without `config.data` all built sets of the folder are used, or the phantom where there is none.
"""

import ml_collections

from configs import detect, segment


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "evaluate"
    config.checkpoint = ""  # a run's workdir or an export
    config.network = "student"  # or "teacher"
    config.data = arg  # built sets, comma-separated; empty: all of the folder
    config.data_dir = "records"
    config.tasks = "probe,retrieve,slices,segment,detect"
    config.untrained = True  # the same from a network that has learnt nothing, beside it
    config.shares = (0.01, 0.1, 1.0)  # of the training patients, linear probe
    config.seeds = (0, 1, 2)
    config.ct_slices = True  # CTs as trained, with their chosen slices; False: the volume alone
    config.each = 200  # patients a finding of the precision at k
    config.rows = 32  # a device, when embedding
    config.resamples = 1000  # of the bootstrap intervals
    wanted = segment.get_config()
    config.segment = ml_collections.ConfigDict(
        {
            name: wanted[name]
            for name in ("tune", "shares", "limit", "tolerance", "setr_channels", "unetr_features", "xray", "ct")
        }
    )
    wanted = detect.get_config()
    config.detect = ml_collections.ConfigDict(
        {
            name: wanted[name]
            for name in ("tune", "shares", "limit", "most", "widths", "lowest", "confidence", "overlap", "recipe")
        }
    )
    return config
