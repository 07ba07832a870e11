"""Sizes of the towers, by the field's names."""

from typing import NamedTuple


class Size(NamedTuple):
    """Width, depth, heads and MLP width of one transformer."""

    width: int
    depth: int
    heads: int
    mlp_width: int


VISION = {
    "Mu": Size(128, 4, 4, 512),  # the demo's: trains on two CPU cores
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "B": Size(768, 12, 12, 3072),
    "L": Size(1024, 24, 16, 4096),
}
REPORT = {
    "Mu": Size(128, 2, 4, 512),
    "Ti": Size(128, 2, 2, 512),  # BERT-tiny
    "S": Size(512, 4, 8, 2048),  # BERT-small
    "Mini": Size(384, 6, 12, 1536),  # MiniLM-L6
    "B": Size(768, 12, 12, 3072),  # BERT-base, Bio_ClinicalBERT
    "L": Size(1024, 24, 16, 4096),
}
