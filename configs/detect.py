"""Detection on X-rays with a trained encoder: configs/detect.py:<built set>, the phantom without one.

YOLOv3's head over a pyramid of the ViT's map, one class whatever the finding, MGCA's recipe. mAP over IoU 0.4:0.75 as
in the papers, and COCO's.
"""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config(arg: str = "phantom") -> ConfigDict:
    return typed.config_dict(jobs.DetectConfig(data=arg or "phantom"))
