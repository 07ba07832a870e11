"""Detection on X-rays with a trained encoder: configs/detect.py:<built set>, the phantom without one.

YOLOv3's head over a pyramid of the ViT's map, one class whatever the finding, MGCA's recipe. mAP over IoU 0.4:0.75 as
in the papers, and COCO's.
"""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import DetectConfig


def get_config(arg: str = "phantom") -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dataclasses.asdict(DetectConfig(data=arg or "phantom")))
