"""Writes examples as TFDS record files (array_record) without TensorFlow, byte for byte the same every time."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2

from data import geometry
from data.source import Example, Source

VERSION = "1.0.0"
Streams = dict[str, Iterable[tuple[str, Example]]]  # split -> key and example, in the order of the file


def features(source: Source, modality: str) -> tfds.features.FeaturesDict:
    """The schema of one modality's records: the contract's fields, and the truth that the source has."""
    tensor, string = tfds.features.Tensor, tfds.features.Text
    shape = (geometry.FILM_SIZE,) * 2 if modality == "xray" else geometry.VOLUME_SHAPE
    fields = {"id": string(), "patient": string(), "report": string()}
    fields["labels"] = tensor(shape=(len(source.labels),), dtype=np.float32)
    # Raw bytes: a volume is read in 1.4 ms, zlib takes three times as long.
    if modality == "xray":
        fields["image"] = tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    else:
        fields["volume"] = tensor(shape=shape, dtype=np.int16, encoding="bytes")
        fields["spacing_mm"] = tensor(shape=(3,), dtype=np.float32)
    for mask in ("organ_mask", "lesion_mask"):
        if mask in source.truth:
            # Mostly zeros: packed they cost training, which skips them, next to nothing.
            fields[mask] = tensor(shape=shape, dtype=np.uint8, encoding="zlib")
    if "boxes" in source.truth:
        fields["boxes"] = tensor(shape=(None, 1 + 2 * len(shape)), dtype=np.float32)
    return tfds.features.FeaturesDict(fields)


def write(folder: Path, modality: str, schema: tfds.features.FeaturesDict, streams: Streams) -> None:
    """Writes `<folder>/<modality>/<VERSION>/`, one stream after the other; no stream may be empty."""
    tfds.disable_progress_bar()
    builder = RecordBuilder(modality=modality, schema=schema, streams=streams, data_dir=folder)
    # Its messages name a folder that will be renamed.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        builder.download_and_prepare()


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose splits are streams of examples."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, modality: str, schema: tfds.features.FeaturesDict, streams: Streams, data_dir: Path) -> None:
        self.name = modality
        self._schema, self._streams = schema, streams
        super().__init__(file_format="array_record", data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=self._schema, disable_shuffling=True)

    def _split_generators(self, download_manager: object) -> Streams:
        del download_manager
        return self._streams

    def _generate_examples(self) -> None:
        raise AssertionError("the splits are given as streams")

    def _example_writer(self) -> tfds_writer.ExampleWriter:
        return OrderedWriter(self.info.file_format)


class OrderedWriter(tfds_writer.ExampleWriter):
    """Puts a record's fields into one order: TFDS leaves it to a hash that differs from process to process."""

    def write(self, path: os.PathLike, examples: Iterable[tuple[str, bytes]]) -> object:
        """Writes one file, as TFDS does."""
        return super().write(path, self._ordered(examples))

    def _ordered(self, examples: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        for key, serialized in examples:
            example = tf_example_pb2.Example.FromString(serialized)
            yield key, example.SerializeToString(deterministic=True)
