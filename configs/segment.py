"""Segmentation with a trained encoder: configs/segment.py:<built set>, the phantom without one.

X-rays: SETR-PUP on the ViT's tokens, the whole image at the network's size (MGCA's recipe). CTs: UNETR. Dice, HD95 and
NSD are measured on the record's own grid: in millimetres for CTs, in pixels of the 256 x 256 image for X-rays.
"""

import dataclasses

import ml_collections

from unimedi_jax.config.jobs import SegmentConfig


def get_config(arg: str = "phantom") -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(dataclasses.asdict(SegmentConfig(data=arg or "phantom")))
