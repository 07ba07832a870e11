"""Writes examples as TFDS record files (array_record) without TensorFlow, byte for byte the same every time."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data.readers import ct_records
from data.record_files import TEMPLATE
from data.source import Example, Source

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20


def features(source: Source, modality: str) -> tfds.features.FeaturesDict:
    """The schema of one modality's records: the contract's fields, and the annotations that the source has."""
    tensor, string = tfds.features.Tensor, tfds.features.Text
    shape = (source.grid.film_size,) * 2 if modality == "xray" else source.grid.volume_shape
    fields = {"id": string(), "patient": string(), "report": string()}
    fields |= {name: string() for name in source.columns}
    fields["labels"] = tensor(shape=(len(source.labels),), dtype=np.float32)
    # Raw bytes: a volume is read in 1.4 ms, zlib takes three times as long.
    if modality == "xray":
        fields["image"] = tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    else:
        fields["volume"] = tensor(shape=shape, dtype=np.int16, encoding="bytes")
        fields["spacing_mm"] = tensor(shape=(3,), dtype=np.float32)
        if not source.grid.plain_volumes:
            # Packed as they are: TFDS's own lists have no 64 bits.
            fields["affine"] = tensor(shape=(4, 4), dtype=np.float64, encoding="bytes")
            fields["original_shape"] = tensor(shape=(3,), dtype=np.int32)
            fields["original_affine"] = tensor(shape=(4, 4), dtype=np.float64, encoding="bytes")
    for mask in ("organ_mask", "lesion_mask"):
        if mask in source.annotations:
            # Mostly zeros: packed, they cost training next to nothing.
            fields[mask] = tensor(shape=shape, dtype=np.uint8, encoding="zlib")
        if modality == "ct" and (original := f"{ct_records.ORIGINAL}{mask}") in source.annotations:
            fields[original] = tensor(shape=(None,) * 3, dtype=np.uint8, encoding="zlib")
    for places in ("candidates", "excluded"):
        if modality == "ct" and places in source.annotations:
            fields[places] = tensor(shape=(None, 4), dtype=np.float32)
    if "boxes" in source.annotations:
        fields["boxes"] = tensor(shape=(None, 1 + 2 * len(shape)), dtype=np.float32)
    return tfds.features.FeaturesDict(fields)


class Shards:
    """The shards of one split while they are written: each is finished once its `.json` is beside it.

    array_record files with TFDS's metadata, but not through a TFDS builder: its writer holds a split in memory and
    needs TensorFlow above 1 GB. Here memory is bounded by one example, and finished shards survive an interruption.
    Where a shard ends depends on the records alone, so interrupted and uninterrupted builds write the same bytes.
    """

    def __init__(self, folder: Path, split: str, schema: tfds.features.FeaturesDict) -> None:
        """`folder` holds the parts of one modality; finished shards of an earlier build are kept."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._schema = folder / split, schema
        self.done: list[dict[str, Any]] = []
        while (facts := self._facts(len(self.done))) is not None:
            self.done.append(facts)
        self._writer: ArrayRecordWriter | None = None

    @property
    def rows(self) -> int:
        """How many rows of the split the finished shards cover, including rejected ones."""
        return self.done[-1]["rows"] if self.done else 0

    def examples(self, index: int) -> Iterator[Example]:
        """What a finished shard holds, as it was given to `write`."""
        stored = ArrayRecordDataSource(str(self.path(index)))
        for at in range(len(stored)):
            fields = self._schema.deserialize_example_np(stored[at])
            yield {name: v.decode() if isinstance(v, bytes) else v for name, v in fields.items()}

    def write(self, example: Example, row: int, aside: dict[str, Any]) -> None:
        """Adds the example of the split's `row`-th row; `aside` holds its notes and the rejected rows before it."""
        record = _serialized(self._schema, example)
        if self._writer is not None and self._open["bytes"] + len(record) > SHARD_BYTES:
            self._close()
        if self._writer is None:
            self._open: dict[str, Any] = {"records": 0, "bytes": 0, "aside": []}
            self._writer = ArrayRecordWriter(str(self.path(len(self.done))), "group_size:1")
        self._writer.write(record)
        self._open |= {"records": self._open["records"] + 1, "bytes": self._open["bytes"] + len(record), "rows": row}
        self._open["aside"].append(aside)

    def finish(self) -> None:
        """Closes the last shard."""
        if self._writer is not None:
            self._close()

    def path(self, index: int) -> Path:
        """Where a shard is while the set is being built."""
        return self._path.with_name(f"{self._path.name}.{index}")

    def _close(self) -> None:
        self._writer.close()
        self._writer = None
        path = self.path(len(self.done))
        facts = self._open | {"size": path.stat().st_size}
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(facts), encoding="utf-8")
        partial.rename(path.with_name(path.name + ".json"))
        self.done.append(facts)

    def _facts(self, index: int) -> dict[str, Any] | None:
        path = self.path(index)
        try:
            facts = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
            return facts if path.stat().st_size == facts["size"] else None
        except (OSError, ValueError, KeyError):
            return None


def assemble(folder: Path, modality: str, schema: tfds.features.FeaturesDict, splits: dict[str, Shards]) -> None:
    """Makes `<folder>/<modality>/<VERSION>/` of finished shards by hard links; no split may be empty."""
    folder = folder / modality / VERSION
    folder.mkdir(parents=True)
    infos = []
    for split, shards in splits.items():
        names = dict(dataset_name=modality, split=split, filetype_suffix="array_record")
        template = tfds.core.ShardedFileTemplate(data_dir=folder, template=TEMPLATE, **names)
        for index in range(len(shards.done)):
            name = template.sharded_filepath(shard_index=index, num_shards=len(shards.done))
            _link(shards.path(index), Path(name))
        lengths = [facts["records"] for facts in shards.done]
        size = sum(facts["bytes"] for facts in shards.done)
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template))
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=schema, split_infos=infos, filename_template=TEMPLATE, check_data=False
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some network drives have no links
        source.rename(target)


def _serialized(schema: tfds.features.FeaturesDict, example: Example) -> bytes:
    # TFDS leaves the order of a record's fields to a hash that differs from process to process.
    message = tf_example_pb2.Example.FromString(schema.serialize_example(example))
    return message.SerializeToString(deterministic=True)
