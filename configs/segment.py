"""Segmentation with a trained encoder: configs/segment.py:<built set>, the phantom without one.

X-rays: SETR-PUP on the ViT's tokens, the whole image at the network's size (MGCA's recipe). CTs: UNETR. Dice, HD95 and
NSD are measured on the record's own grid: in millimetres for CTs, in pixels of the image for X-rays. With
`config.protocol=unetr` or `voco` CTs are trained on in crops at their own resolution and measured on the voxels of
their files (docs/protocols.md).
"""

from ml_collections import ConfigDict

from unimedi_jax.config import jobs, typed


def get_config(arg: str = "phantom") -> ConfigDict:
    return typed.config_dict(jobs.SegmentConfig(data=arg or "phantom"))
