"""Opens the records of one modality of a set, which may come from a stranger: files are data and run nothing.

A set describes itself in TFDS's `features.json` and `dataset_info.json`. TFDS's own reader imports whatever Python
class these name, and opens whatever path. Here they are read as JSON: only the two kinds of features that the writer
makes pass, and names of files follow from the names of splits.
"""

import dataclasses
import itertools
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from data import json_files, record_grid
from data.errors import UserError

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # the only one that is written or read
FEATURES, INFO = "features.json", "dataset_info.json"
ADVICE = "bring back a copy of the set or build it again"
MOST_BYTES = 1 << 24  # of either file
MOST_FIELDS = 64
MOST_NUMBERS = record_grid.MOST_VOXELS  # of one field
MOST_SHARDS = 99_999  # five digits in a file's name
DTYPES = ("uint8", "int16", "int32", "float32", "float64")
ENCODINGS = ("none", "bytes", "zlib")
SMALLEST = 40  # bytes of a record in its file: array_record heads each with so many
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_CLASS = "tensorflow_datasets.core.features."
DICT, TENSOR, TEXT = (
    f"{_CLASS}{name}" for name in ("features_dict.FeaturesDict", "tensor_feature.Tensor", "text_feature.Text")
)

ALWAYS = {"id": TEXT, "patient": TEXT, "report": TEXT, "labels": TENSOR}  # the fields of every record


class BoundedTensor(tfds.features.Tensor):
    """A tensor whose packed bytes are never unpacked to more than its shape has: a record may claim a few bytes."""

    def decode_example_np(self, example_data: Any) -> np.ndarray:
        """As TFDS. Raises ValueError for other than the shape's bytes."""
        encoding = self._encoding.value
        if encoding == "none":
            return super().decode_example_np(example_data)
        shape = self.shape
        if None in shape:
            shape = tuple(int(n) for n in np.asarray(example_data["shape"]).ravel())
            example_data = example_data["value"]
            if len(shape) != len(self.shape) or min(shape) < 0 or math.prod(shape) > MOST_NUMBERS:
                raise ValueError("a field whose record gives it another or too large a shape")
        size = math.prod(shape) * np.dtype(self.np_dtype).itemsize
        if encoding == "zlib":
            unpacker = zlib.decompressobj()
            example_data = unpacker.decompress(example_data, size + 1)
            if not unpacker.eof:
                raise ValueError("the packed field does not end where it should")
        if len(example_data) != size:
            raise ValueError("a field has not the length that its shape has")
        return np.frombuffer(example_data, self.np_dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records, as array_record takes it: nothing is opened before it is read."""

    filename: str
    examples_in_shard: int
    take: int
    skip: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """The records of one modality: what fields they have, and the shards of each split."""

    features: dict[str, tfds.features.FeatureConnector]
    splits: dict[str, tuple[Shard, ...]]

    @property
    def texts(self) -> list[str]:
        """The fields that hold text."""
        return [name for name, one in self.features.items() if isinstance(one, tfds.features.Text)]

    def size(self, split: str) -> int:
        """Number of records; 0 for a split that is not there."""
        return sum(shard.take for shard in self.splits.get(split, ()))

    def raw(self, split: str) -> ArrayRecordDataSource:
        """The serialized records of a split, with random access."""
        return ArrayRecordDataSource(list(self.splits[split]))

    def schema(self, names: Sequence[str] | None = None) -> tfds.features.FeaturesDict:
        """What decodes a record to those of the fields `names` that there are, by default to all."""
        chosen = self.features if names is None else [name for name in names if name in self.features]
        return tfds.features.FeaturesDict({name: self.features[name] for name in chosen})


def read(folder: Path, root: Path) -> Part:
    """What `<root>/<modality>/<version>/` says it holds. No record is read.

    Raises:
        UserError: a description that the writer does not make, files that are missing, or a link that leads out of
            the set's folder `root`.
    """
    features = json_files.read_object(_inside(folder / FEATURES, root), ADVICE, MOST_BYTES)
    info = json_files.read_object(_inside(folder / INFO, root), ADVICE, MOST_BYTES)
    try:
        return Part(_features(features), dict(_splits(info, folder, root)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is described otherwise than sets are that this project builds: {ADVICE}") from error


def decode(schema: tfds.features.FeaturesDict, raw: bytes) -> dict[str, Any]:
    """The fields of a serialized record: arrays, and UTF-8 as bytes.

    Raises:
        ValueError: the record does not have the fields of the schema. The message holds nothing of the record.
    """
    try:
        example = schema.deserialize_example_np(raw)
        lacking = schema.keys() - example.keys()
        for name, feature in schema.items():
            if isinstance(feature, tfds.features.Text):
                example[name].decode("utf-8")
    except Exception as error:  # protobuf, zlib and TFDS raise whatever the damage leads to, and quote it
        raise ValueError(f"a record without the fields of its set ({type(error).__name__})") from None
    if lacking:
        raise ValueError("a record that lacks fields of its set")
    return example


def _inside(path: Path, root: Path) -> Path:
    """The path itself. Raises UserError for a file that is missing, none, or lies elsewhere by a link."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise UserError(f"{path} is missing: {ADVICE}") from error
    if not target.is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leads out of the set's folder: copy what it points to into the set")
    if not target.is_file():
        raise UserError(f"{path} is no file: {ADVICE}")
    return path


def _features(content: Mapping[str, Any]) -> dict[str, tfds.features.FeatureConnector]:
    if content["pythonClassName"] != DICT:
        raise ValueError("no dictionary of features")
    fields = content["featuresDict"]["features"]
    if not len(fields) <= MOST_FIELDS or not all(map(NAME.fullmatch, fields)):
        raise ValueError("names of fields")
    if any(fields.get(name, {}).get("pythonClassName") != kind for name, kind in ALWAYS.items()):
        raise ValueError("a set without the fields that all have")
    if not fields.keys() & {"image", "volume"}:
        raise ValueError("a set without pixels")
    return {name: _feature(field) for name, field in fields.items()}


def _feature(field: Mapping[str, Any]) -> tfds.features.FeatureConnector:
    if field["pythonClassName"] == TEXT:
        return tfds.features.Text()
    if field["pythonClassName"] != TENSOR:
        raise ValueError("a feature that is neither text nor numbers")
    tensor = field["tensor"]
    dtype, encoding = tensor["dtype"], tensor.get("encoding", "none")
    shape = tuple(int(size) for size in tensor.get("shape", {}).get("dimensions", ()))
    free = shape[1:] if shape[:1] == (-1,) and encoding == "none" else shape  # boxes: any number of rows
    if len(shape) > 1 and set(shape) == {-1} and encoding != "none":  # volumes of any shape, which their records give
        free = ()
    if dtype not in DTYPES or encoding not in ENCODINGS or min(free, default=1) < 0 or len(shape) > 4:
        raise ValueError("a tensor of another kind")
    if math.prod(free) > MOST_NUMBERS:
        raise ValueError("a tensor too large")
    return BoundedTensor(shape=tuple(None if n < 0 else n for n in shape), dtype=np.dtype(dtype), encoding=encoding)


def _splits(info: Mapping[str, Any], folder: Path, root: Path) -> Iterator[tuple[str, tuple[Shard, ...]]]:
    name = info["name"]
    if info["fileFormat"] != "array_record" or not NAME.fullmatch(name):
        raise ValueError("another file format")
    for split in info["splits"]:
        lengths = [int(length) for length in split.get("shardLengths", ())]
        if split["filepathTemplate"] != TEMPLATE or not NAME.fullmatch(split["name"]) or len(lengths) > MOST_SHARDS:
            raise ValueError("other names of files")
        start = f"{name}-{split['name']}.array_record"
        paths = (folder / f"{start}-{index:05d}-of-{len(lengths):05d}" for index in itertools.count())
        yield split["name"], tuple(_shard(path, count, root) for path, count in zip(paths, lengths, strict=False))


def _shard(path: Path, count: int, root: Path) -> Shard:
    size = _inside(path, root).stat().st_size
    if not 0 < count * SMALLEST <= size:
        raise UserError(f"{path} has {size} bytes, too few for the {count} records that it should hold: {ADVICE}")
    return Shard(str(path), count, count)
