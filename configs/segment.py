"""Segmentation with a trained encoder: configs/segment.py:<built set>, the phantom without one.

Films: SETR-PUP on the ViT's tokens, the whole film at the network's size (MGCA's recipe). CTs: UNETR. Dice, HD95 and
NSD are measured on the record's own grid: in millimetres for CTs, in pixels of the 256 x 256 film for X-rays.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "segment"
    config.checkpoint = ""  # a run's workdir or an export
    config.network = "student"  # or "teacher"
    config.data = arg or "phantom"
    config.data_dir = "records"
    config.modality = ""  # "xray" or "ct"; all that the set has
    config.target = "organs"  # "lesions": one class whatever the finding; "boxes": their union, as RSNA's
    config.tune = "frozen,full"  # of the encoder; the decoder is always trained
    config.shares = (1.0,)  # of the training patients: RSNA and SIIM 0.01, 0.1, 1; AMOS 0.2, 0.4, 1
    config.seeds = (0,)
    config.untrained = True  # the same from an encoder that has learnt nothing, beside it
    config.limit = 0  # cases a split, 0 = all
    config.windows = False  # CTs at the record's resolution in sliding windows; False: the whole, shrunk
    config.tolerance = 2.0  # of NSD, mm (pixels for films)
    config.resamples = 1000  # of the bootstrap intervals
    config.setr_channels = (512, 256, 128, 64)
    config.unetr_features = 16
    # MGCA for films; UNETR's AdamW for volumes, whose thousands of epochs on 24 cases are not meant for larger sets.
    config.xray = ml_collections.ConfigDict(
        {"batch": 16, "epochs": 50, "patience": 10, "lr": 5e-4, "encoder_lr": 5e-5, "weight_decay": 0.05}
    )
    config.ct = ml_collections.ConfigDict(
        {"batch": 8, "epochs": 100, "patience": 10, "lr": 1e-4, "encoder_lr": 1e-4, "weight_decay": 1e-5}
    )
    return config
