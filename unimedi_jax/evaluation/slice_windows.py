"""The paper's check of chosen slices on windows of original slices (`metrics/slice_windows.py`), in `evaluate`."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np

from data import progress
from data.errors import UserError
from unimedi_jax import patches, selection, sharding
from unimedi_jax.config.jobs import EvaluateConfig
from unimedi_jax.evaluation import native, results, trials
from unimedi_jax.evaluation.downstream import Outputs, Part
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records
from unimedi_jax.input.augmentation import AIR_HU
from unimedi_jax.metrics import slice_windows, slices
from unimedi_jax.models import inputs, towers
from unimedi_jax.typing import Array, Float, Int16, PyTree

TASK = "slices, windows of 32"
METRICS = ("nodules/hit_rate", "nodules/random_rate")
PLANE = 224  # pixels of a window's slices
SEED = 0  # of the windows
FIELDS = ("patient", "volume", "boxes", "lesion_mask")


class Window(NamedTuple):
    """32 original slices around one nodule."""

    volume: Int16[np.ndarray, "32 224 224"]
    extent: slice_windows.Extent
    start: int
    patient: str


def evaluate(
    trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, outputs: Outputs | None = None
) -> list[results.Result]:
    """Hit rate of the chosen layers over the nodules of a set's test CTs, and the exact one of a random choice.

    Raises:
        UserError: no nodules are marked, the network has no slices, or its patches do not divide the windows.
    """
    if not trained.model.slices:
        raise UserError("the model was trained without slices")
    if not dataset.size("ct", "test") or not {"boxes", "lesion_mask"} & set(dataset.contract["truth"]):
        raise UserError("no CT test records with boxes or a lesion mask")
    native.check(trained, dataset)
    if not native.has_own_slices(dataset):
        raise UserError(f"{dataset.folder} has no slices of its scans: build it with --config.spacing_mm=0,1,1")
    outputs = outputs or Outputs()
    fills = ((name, functools.partial(_measure, trained, dataset, config, name)) for name in trials.encoders(config))
    rows = [outputs.part(fill, config, [dataset], task=TASK, encoder=name) for name, fill in fills]
    return list(itertools.chain(*rows))


def _measure(trained: Pretrained, dataset: records.RecordSet, config: EvaluateConfig, encoder: str, part: Part) -> None:
    scorer, scores, places, patients = Scorer(trained, config.rows * trained.mesh.size), [], [], []
    drawn = windows(dataset, "test")
    variables = trained.encoder(encoder)
    while some := list(itertools.islice(drawn, scorer.rows)):
        scores.append(scorer(variables, np.stack([window.volume for window in some])))
        places += [(window.extent, window.start) for window in some]
        patients += [window.patient for window in some]
    if not places:
        raise UserError(f"no CT of {dataset.folder} has a nodule and {slice_windows.DEPTH} slices")
    near = slice_windows.positive([extent for extent, _ in places], np.array([start for _, start in places]))
    layer_scores = np.concatenate(scores)
    k = slice_windows.chosen(layer_scores.shape[1])
    rate = slices.hit_rate(layer_scores, near, k, resamples=config.resamples, patients=patients)
    scalars = {f"nodules/{key}": value for key, value in rate.scalars().items()}
    scalars["nodules/layer_share"] = slices.layer_share(layer_scores)
    shared = dict(task=TASK, data=dataset.name, modality="ct", encoder=encoder)
    part.rows += results.of(scalars, cases=rate.cases, **shared)


def windows(dataset: records.RecordSet, split: str) -> Iterator[Window]:
    """A window for every nodule of a split's CTs, the same whenever it is asked."""
    names = [name.lower() for name in dataset.contract["labels"]]
    findings = [index for index, name in enumerate(names) if "nodule" in name]
    source, rng = dataset.source("ct", split, FIELDS), np.random.default_rng(SEED)
    with progress.shown(len(source), f"CTs of {split}") as tick:
        for record in source:
            volume, patient = record["volume"], records.text(record["patient"])
            for extent in nodules(record, findings):
                start = slice_windows.start(extent, len(volume), rng)
                if start is not None:
                    yield Window(in_plane(volume[start : start + slice_windows.DEPTH]), extent, start, patient)
            tick(1)


def nodules(record: dict[str, np.ndarray], findings: Sequence[int]) -> list[slice_windows.Extent]:
    """The extents of a record's nodules: of its boxes, or else of the parts of its lesion mask."""
    if "boxes" in record:
        return slice_windows.of_boxes(record["boxes"], findings)
    return slice_windows.parts_of(record["lesion_mask"], [*(1 + index for index in findings), slices.UNSTATED])


def in_plane(volume: Int16[np.ndarray, "z y x"]) -> Int16[np.ndarray, "z 224 224"]:
    """Slices at PLANE x PLANE pixels: air around them to a square, then means of areas, or linear where they grow."""
    side = max(volume.shape[1:])
    margins = [((side - n) // 2, side - n - (side - n) // 2) for n in volume.shape[1:]]
    square = np.pad(volume, ((0, 0), *margins), constant_values=AIR_HU).astype(np.float32)
    method = cv2.INTER_AREA if side > PLANE else cv2.INTER_LINEAR
    made = np.stack([cv2.resize(one, (PLANE, PLANE), interpolation=method) for one in square])
    return np.rint(made).astype(np.int16)


@dataclasses.dataclass(frozen=True)
class Scorer:
    """The scores of the depth layers of windows (eq. 2), the table of positions interpolated to their size."""

    trained: Pretrained
    rows: int

    def __call__(self, variables: PyTree, volumes: Int16[np.ndarray, "b z y x"]) -> Float[np.ndarray, "b layers"]:
        part = np.arange(self.rows).clip(max=len(volumes) - 1)  # one compiled size
        return jax.device_get(self.apply(variables, sharding.put_batch(volumes[part], self.trained.mesh)))[
            : len(volumes)
        ]

    @functools.cached_property
    def apply(self):
        """Jitted. Raises UserError where the patches do not divide a window."""
        model, patch = self.trained.model, self.trained.model.volume_patch
        try:
            grid = patches.grid((slice_windows.DEPTH, PLANE, PLANE), patch)
        except ValueError as error:
            raise UserError(f"windows of {slice_windows.DEPTH} x {PLANE} x {PLANE} do not fit: {error}") from error

        def run(bound: towers.UniMedI, volumes: Array) -> Array:
            tokens = patches.patchify(inputs.hounsfield(volumes, bound.window_hu), patch)
            scores = bound.encode(bound.embed_pixels("ct", tokens, grid), scores=True).scores
            if grid[0] == bound.volume_grid[0]:
                return bound.choose_layers(scores)[0]
            return selection.slice_scores(scores, grid[0])

        return jax.jit(lambda variables, volumes: model.apply(variables, volumes, method=run))
