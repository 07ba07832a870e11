"""Writes examples as TFDS record files (array_record) without TensorFlow, byte for byte the same every time."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data import geometry
from data.source import Example, Source

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
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
    """Writes `<folder>/<modality>/<VERSION>/`, one stream after the other; no stream may be empty.

    array_record shards with TFDS's metadata beside them, not through a TFDS builder: its writer holds a split in memory
    and, above 1 GB, needs TensorFlow. Here memory is bounded by one example.
    """
    folder = folder / modality / VERSION
    folder.mkdir(parents=True)
    splits = []
    for split, stream in streams.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=modality, split=split, filetype_suffix="array_record", template=TEMPLATE
        )
        lengths, size = _write_shards(template, (_serialized(schema, example) for _, example in stream))
        splits.append(
            tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=schema, split_infos=splits, filename_template=TEMPLATE, check_data=False
    )


def _serialized(schema: tfds.features.FeaturesDict, example: Example) -> bytes:
    # TFDS leaves the order of a record's fields to a hash that differs from process to process.
    message = tf_example_pb2.Example.FromString(schema.serialize_example(example))
    return message.SerializeToString(deterministic=True)


def _write_shards(template: tfds.core.ShardedFileTemplate, records: Iterable[bytes]) -> tuple[list[int], int]:
    """Shards of about `SHARD_BYTES`; returns the number of records in each and the bytes of all."""
    folder, lengths, size, room = Path(template.data_dir), [], 0, 0
    writer = None
    for record in records:
        if room < len(record):
            if writer is not None:
                writer.close()
            # How many there are is part of their names, and known at the end only.
            writer = ArrayRecordWriter(str(folder / f"{template.split}.{len(lengths)}"), "group_size:1")
            lengths.append(0)
            room = SHARD_BYTES
        writer.write(record)
        lengths[-1] += 1
        room -= len(record)
        size += len(record)
    if writer is not None:
        writer.close()
    for index in range(len(lengths)):
        name = template.sharded_filepath(shard_index=index, num_shards=len(lengths))
        (folder / f"{template.split}.{index}").rename(name)
    return lengths, size
