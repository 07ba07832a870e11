"""Detection on films with a trained encoder: configs/detect.py:<built set>, the phantom without one.

YOLOv3's head over a pyramid of the ViT's map, one class whatever the finding, MGCA's recipe. mAP over IoU 0.4:0.75 as
in the papers, and COCO's.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "detect"
    config.checkpoint = ""  # a run's workdir or an export
    config.network = "student"  # or "teacher"
    config.data = arg or "phantom"
    config.data_dir = "records"
    config.tune = "frozen"  # "full": the encoder learns too; "frozen,full": both
    config.shares = (1.0,)  # of the training patients; the papers: 0.01, 0.1, 1
    config.seeds = (0,)
    config.untrained = True  # the same from an encoder that has learnt nothing, beside it
    config.limit = 0  # films a split, 0 = all
    config.most = 20  # boxes of a film
    config.widths = (512, 256, 128)  # of the head, coarsest scale first
    config.lowest = 0.01  # score below which a box is not counted
    config.confidence = 0.5  # of map_mgca
    config.overlap = 0.5  # above it the weaker of two boxes goes
    config.resamples = 1000  # of the bootstrap intervals
    config.recipe = ml_collections.ConfigDict(
        {"batch": 16, "epochs": 50, "patience": 10, "lr": 5e-4, "encoder_lr": 5e-5, "weight_decay": 1e-6}
    )
    return config
