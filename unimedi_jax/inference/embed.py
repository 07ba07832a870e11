"""Embeddings of anything: the embed job, and `unimedi_jax.load(path).embed(source)`."""

import dataclasses
import functools
import itertools
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from data.errors import UserError
from data.readers import memory
from unimedi_jax import compile_cache, fingerprint
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.inference import dicomweb, features, maps, outputs, preprocess, pretrained, projector, sources
from unimedi_jax.inference.partial_rows import PartialRows

LOG = logging.getLogger(__name__)
FORMATS = (".npz", ".parquet")
COMPILATIONS = PretrainConfig.compilations


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Rows in the order of the source; what a row does not have is NaN (-1 in `layers`).

    `z` and `z_report` are unit vectors of one space: their inner product is the cosine of image and report. Of a
    released encoder without a report tower `z` is the unit vector of `cls`.
    """

    ids: np.ndarray  # (n,) paths relative to the source; of a .txt the numbers of its lines
    modality: np.ndarray  # (n,) "xray", "ct" or "report"
    cls: np.ndarray  # (n, d) float32: what probes and decoders use, images alone
    z: np.ndarray  # (n, e) float32: of the image, or of the report where there is no image
    z_report: np.ndarray  # (n, e) float32: of the row's report
    slice_scores: np.ndarray  # (n, layers) float32: attention on each depth layer (eq. 2), CTs alone
    layers: np.ndarray  # (n, k) int32: the depth layers it chose, CTs alone
    rejected: tuple[sources.Rejected, ...] = ()  # files that could not be read, with the reason
    network: str = ""  # `Model.fingerprint` of the one that made them; "" where that is not known

    def to_parquet(self, path: str | pathlib.Path) -> None:
        """Writes a .parquet: one row per item, vectors as lists."""
        if pathlib.Path(path).suffix != ".parquet":
            raise UserError(f"{path} does not end in .parquet")
        self.save(path)

    def to_projector(self, folder: str | pathlib.Path) -> None:
        """Writes `z` for the projector of TensorBoard, with ids and modalities: `tensorboard --logdir=<folder>`."""
        projector.write(pathlib.Path(folder), self.z, {"id": self.ids, "modality": self.modality})

    def save(self, path: str | pathlib.Path) -> None:
        """Writes .npz or .parquet (one row per item, vectors as lists), whole or not at all.

        `network` is a field of the one, and in the metadata of the other's schema.
        """
        path = pathlib.Path(path)
        _check_out(path)
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("rejected", "network")]
        arrays = {name: getattr(self, name) for name in names}
        partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            if path.suffix == ".npz":
                np.savez_compressed(stream, **arrays, network=np.array(self.network))
            else:
                _parquet(arrays, self.network, stream)
        partial.replace(path)


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network that embeds files and texts; made by `load`."""

    pretrained: pretrained.Pretrained
    embedder: features.Embedder

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name the network and how it reads: vectors of two that differ share no space."""
        trained = self.pretrained
        settings = [trained.config["model"], trained.config["input"], self.embedder.ct_slices]
        return fingerprint.facts([trained.fingerprints, *settings])[:16]

    def embed(
        self,
        source: str | pathlib.Path,
        *,
        maps_to: str | pathlib.Path | None = None,
        partial: pathlib.Path | None = None,
    ) -> Embeddings:
        """Every X-ray, CT and report of a file, folder, DICOM series, manifest (.csv) or list of reports (.txt).

        Files are brought to the network's input by the contract it was trained with. With `maps_to`, chosen slices and
        attention go into that folder: a PNG for each image, and for a CT a NIfTI on the voxels of the file. Rows are
        added to the file `partial` as they come, and those of the same files and weights that it has are not computed
        again; the caller removes it.

        Raises:
            UserError: nothing to embed, or nothing that could be read.
        """
        sources.check(self.pretrained)
        items, refused = sources.find(pathlib.Path(source).expanduser(), self.pretrained.reading)
        folder = None if maps_to is None else pathlib.Path(maps_to).expanduser()
        rows = _Rows(self, items, folder, partial)
        reads = self.pretrained.embeds
        for modality in reads:
            readable = sources.read(items, modality, refused, skip=rows.filled)
            while batch := list(itertools.islice(readable, self.embedder.rows)):
                rows.add(modality, batch)
        refused += sources.of_others(items, reads, f"this encoder reads {' and '.join(reads)}")
        return rows.done(refused)

    def attention(self, path: str | pathlib.Path) -> np.ndarray:
        """Where the network attends in one X-ray or CT, a file or a DICOM series: float32 on its own grid, sum 1.

        Rows and columns of an X-ray as it is read, upright; voxels of a CT in the order of a NIfTI's own axes, of other
        formats (x, y, z) toward the patient's left, back and head. It is the mean attention of CLS (eq. 1).

        Raises:
            UserError: not one picture, or one that cannot be read.
        """
        sources.check(self.pretrained)
        items, refused = sources.find(pathlib.Path(path).expanduser(), self.pretrained.reading)
        pictures = [item for item in items if item.modality != "report"]
        if len(pictures) != 1:
            raise UserError(f"{path} holds {len(pictures)} images: attention is that of one")
        modality = pictures[0].modality
        pixels = [x for _, x in sources.read(pictures, modality, refused)]
        if not pixels:
            raise UserError(f"{path} cannot be read: {refused[0].reason}")
        scores = self.features(modality, pixels, [pictures[0].view]).scores[0]
        return maps.on_own_grid(scores, pictures[0], self.pretrained)

    def embed_reports(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 (n, e) of texts, in the space of the images. Raises UserError without a report tower."""
        trained = self.pretrained
        trained.check_reports()
        return features.embed_reports(self.embedder, trained.variables, trained.tokenizer, texts, trained.report_length)

    def features(self, modality: str, pixels: Sequence[np.ndarray], views: Sequence[str] = ()) -> Any:
        """`Features` of up to `embedder.rows` X-rays uint8 (y, x) or volumes int16 (z, y, x) on the records' grid.

        `views` of X-rays, as records name them, count where the network distinguishes them; without they are frontal.
        """
        cut = preprocess.film_tokens if modality == "xray" else preprocess.window_tokens
        inputs = [cut(self.pretrained, pixels)]
        if modality == "xray" and self.pretrained.model.lateral_type:
            inputs.append(preprocess.laterals(views or [""] * len(pixels)))
        full = np.arange(self.embedder.rows).clip(max=len(pixels) - 1)  # one shape, one compilation
        batch = self.embedder.image(modality, self.pretrained.variables, *(x[full] for x in inputs))
        return jax.tree.map(lambda x: x[: len(pixels)], batch)


def load(
    path: str | pathlib.Path,
    network: str = "student",
    *,
    rows: int = 8,
    ct_slices: bool | None = None,
    compilations: str = COMPILATIONS,
) -> Model:
    """The network of a run's workdir, an export or a released encoder, for `rows` a batch and device.

    What `path` names in a bucket (gs://, s3://) is fetched, and kept from removal until this process ends.
    CTs are embedded as the run trained them; `ct_slices` True: with their chosen slices, False: by the volume alone.
    What takes a second or longer to compile is kept in the folder `compilations` ("": nowhere), unless JAX has one.

    Raises:
        UserError: nothing that can be loaded.
    """
    compile_cache.enable(compilations)
    trained = pretrained.load(path, network)
    return Model(trained, trained.embedder(rows=rows, ct_slices=ct_slices))


def run(config: Any, _: pathlib.Path | None = None) -> None:
    """Embeds `config.source` into `config.out`; what could not be read is listed in `<out>.rejected.jsonl`."""
    missing = [name for name in ("checkpoint", "source", "out") if not config[name]]
    if missing:
        raise UserError(f"config.{missing[0]} is empty: checkpoint (run or export), source and out are needed")
    out = pathlib.Path(config.out).expanduser()
    _check_out(out)
    outputs.check_file(out, "config.out")
    if config.maps:
        outputs.check_folder(pathlib.Path(config.maps).expanduser(), "config.maps")
    dicomweb.check(config.source)
    partial = out.with_name(f".{out.name}.rows")
    model = load(config.checkpoint, config.network, rows=config.rows, ct_slices=config.ct_slices)
    embed = functools.partial(model.embed, maps_to=config.maps or None, partial=partial)
    with dicomweb.opened(config.source, config.download_gb) as source:
        embeddings = memory.limited(embed, config.worker_memory_gb, source)
    embeddings.save(out)
    partial.unlink()
    rejected, modality = embeddings.rejected, embeddings.modality
    ledger = sources.write_ledger(out, rejected)
    kinds = ", ".join(f"{np.sum(modality == kind)} {kind}" for kind in np.unique(modality))
    print(f"embedded: {kinds} in {out}" + (f"; {len(rejected)} left out, see {ledger}" if rejected else ""))


class _Rows:
    """The arrays of `Embeddings` while they fill, and with `partial` the same rows on the disk."""

    def __init__(
        self, model: Model, items: Sequence[sources.Item], folder: pathlib.Path | None, partial: pathlib.Path | None
    ) -> None:
        net, width = model.pretrained.model, model.pretrained.config["model"]["embedding"]
        self.model, self.items, self.folder = model, items, folder
        self.filled = np.zeros(len(items), bool)
        sizes = {"cls": net.vision.width, "z": width, "z_report": width, "slice_scores": net.volume_grid[0]}
        self.arrays = {name: np.full((len(items), size), np.nan, np.float32) for name, size in sizes.items()}
        self.arrays["layers"] = np.full((len(items), net.slices), -1, np.int32)
        self.stems = sources.stems(items)
        self.partial = None
        if partial is not None:
            fields = {name: np.dtype((array.dtype, array.shape[1:])) for name, array in self.arrays.items()}
            self.partial = PartialRows(partial, _identity(model, items, folder), fields)
            self._take(self.partial.read())

    def _take(self, rows: np.ndarray) -> None:
        """Rows of an earlier start."""
        self.filled[rows["index"]] = True
        for name, array in self.arrays.items():
            array[rows["index"]] = rows[name]
        if len(rows):
            LOG.info("resuming: %d of %d items are embedded already", len(rows), len(self.items))

    def add(self, modality: str, batch: Sequence[tuple[int, np.ndarray]]) -> None:
        """One batch of one modality: indices of items, and their pixels."""
        index = [i for i, _ in batch]
        self._fill(modality, index, [x for _, x in batch])
        self.filled[index] = True
        if self.partial is not None:
            self.partial.add(np.array(index), {name: array[index] for name, array in self.arrays.items()})

    def _fill(self, modality: str, index: list[int], images: Sequence[np.ndarray]) -> None:
        reports = self.model.pretrained.tokenizer is not None
        with_report = [i for i in index if reports and self.items[i].report]
        if with_report:
            self.arrays["z_report"][with_report] = self.model.embed_reports([self.items[i].report for i in with_report])
        if modality == "report":
            self.arrays["z"][index] = self.arrays["z_report"][index]
            return
        values = self.model.features(modality, images, [self.items[i].view for i in index])
        for name in self.arrays.keys() & values._asdict().keys():
            if getattr(values, name) is not None:
                self.arrays[name][index] = getattr(values, name)
        if self.folder is not None:
            for row, i in enumerate(index):
                one = jax.tree.map(lambda x, row=row: x[row], values)
                maps.write(self.folder / self.stems[i], self.items[i], images[row], one, self.model.pretrained)

    def done(self, refused: list[sources.Rejected]) -> Embeddings:
        """The rows that were read, in the order of the source."""
        if not self.filled.any():
            if self.partial is not None:
                self.partial.remove()
            raise UserError(f"nothing could be embedded; the first of {len(refused)} reasons: {refused[0].reason}")
        ids, kinds = (np.array([getattr(item, name) for item in self.items]) for name in ("id", "modality"))
        arrays = {name: array[self.filled] for name, array in self.arrays.items()}
        network = self.model.fingerprint
        return Embeddings(ids[self.filled], kinds[self.filled], **arrays, rejected=tuple(refused), network=network)


def _identity(model: Model, items: Sequence[sources.Item], folder: pathlib.Path | None) -> str:
    """Whatever the numbers depend on: weights, settings, and each item with the sizes and times of its files."""
    trained = model.pretrained
    settings = [
        trained.config["model"],
        trained.config["input"],
        trained.network,
        str(folder),
        sources.rules(trained.grid),
    ]
    return json.dumps([trained.fingerprints, settings, model.embedder.ct_slices, sources.facts(items)])


def _check_out(path: pathlib.Path) -> None:
    if path.suffix not in FORMATS:
        raise UserError(f"config.out {path} ends in neither {' nor '.join(FORMATS)}")


def _parquet(arrays: dict[str, np.ndarray], network: str, stream: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {}
    for name, array in arrays.items():
        if array.ndim > 1 and not array.shape[1]:
            continue  # what the network has none of
        flat = pyarrow.array(array.reshape(-1))
        columns[name] = flat if array.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, array.shape[1])
    parquet.write_table(pyarrow.table(columns, metadata={"network": network}), stream)
