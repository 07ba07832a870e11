"""Vectors for the projector of TensorBoard: its two tables and the file that names them."""

import pathlib
import re
from collections.abc import Mapping

import numpy as np
from google.protobuf import text_format
from jaxtyping import Float
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from data import pages

VECTORS, FACTS, CONFIG = "vectors.tsv", "metadata.tsv", "projector_config.pbtxt"  # the last is TensorBoard's name


def write(folder: pathlib.Path, vectors: Float[np.ndarray, "n d"], facts: Mapping[str, np.ndarray]) -> None:
    """Writes vectors and what is known of each row, by column, into a folder for `tensorboard --logdir`.

    The projector splits at tabs and line ends: those in a fact become spaces.
    """
    config = ProjectorConfig()
    config.embeddings.add(tensor_name="embeddings", tensor_path=VECTORS, metadata_path=FACTS)
    columns = [[name, *(re.sub(r"\s", " ", str(value)) for value in values)] for name, values in facts.items()]
    pages.write(folder / VECTORS, "".join("\t".join(map(repr, row)) + "\n" for row in vectors.tolist()))
    pages.write(folder / FACTS, "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True)))
    pages.write(folder / CONFIG, text_format.MessageToString(config))
