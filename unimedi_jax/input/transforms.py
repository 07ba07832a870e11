"""From a record to one sample of a batch. Augmentation moves and crops; it never mirrors: reports name sides."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int16, UInt8

from data import views
from data.errors import UserError
from data.reports import negation, tokenizer
from unimedi_jax import patches
from unimedi_jax.config.pretraining import InputConfig, ModelConfig, VolumeAugmentation
from unimedi_jax.input import augmentation, cuts, records, sentences, tokenised

Sample = dict[str, Any]
Tokens = Int16[np.ndarray, "*w n v"]
UNCHANGED = VolumeAugmentation()


def crop(
    image: UInt8[np.ndarray, "y x"], size: int, most: int, rng: np.random.Generator | None
) -> UInt8[np.ndarray, "size size"]:
    """A square of `size` pixels: from the centre without an `rng`, up to `most` pixels beside it with one.

    MGCA cuts 224 pixels anywhere out of 256: most = 16.
    """
    spare = np.array(image.shape) - size
    corner = spare // 2
    if rng is not None:
        corner = rng.integers(np.maximum(corner - most, 0), np.minimum(corner + most, spare) + 1)
    y, x = corner
    return image[y : y + size, x : x + size]


def shift(
    volume: Int16[np.ndarray, "z y x"], most: tuple[int, int, int], rng: np.random.Generator
) -> Int16[np.ndarray, "z y x"]:
    """Moves a volume by up to `most` voxels along each axis; air comes in from outside."""
    moved = np.full_like(volume, augmentation.AIR_HU)
    by = [int(rng.integers(-m, m + 1)) for m in most]
    target = tuple(slice(max(b, 0), n + min(b, 0)) for b, n in zip(by, volume.shape, strict=True))
    origin = tuple(slice(max(-b, 0), n + min(-b, 0)) for b, n in zip(by, volume.shape, strict=True))
    moved[target] = volume[origin]
    return moved


def shrink(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Block mean down to `size`, rounded, in the dtype of `x`; each length is a multiple of its new one."""
    if x.shape == tuple(size):
        return x
    if any(old % new for old, new in zip(x.shape, size, strict=True)):
        advice = "choose sizes in config.model that divide them"
        raise UserError(f"records of {x.shape} do not shrink to {tuple(size)}: {advice}")
    cells = math.prod(old // new for old, new in zip(x.shape, size, strict=True))
    # Whole strided planes are added up axis by axis: five times as fast as a mean over tiny axes.
    total, width = x, np.uint16 if x.dtype == np.uint8 and cells <= 257 else np.int32
    for axis, (old, new) in enumerate(zip(x.shape, size, strict=True)):
        planes = [total[(slice(None),) * axis + (slice(k, None, old // new),)] for k in range(old // new)]
        total = functools.reduce(functools.partial(np.add, dtype=width), planes)
    return np.rint(total / np.float32(cells)).astype(x.dtype)


def film(image: UInt8[np.ndarray, "y x"], size: tuple[int, ...]) -> UInt8[np.ndarray, "size size"]:
    """An X-ray brought to `size`: by block means where it is a multiple, else resampled, as for released encoders."""
    if not any(old % new for old, new in zip(image.shape, size, strict=True)):
        return shrink(image, size)
    return resample(image, size)


def resample(image: UInt8[np.ndarray, "y x"], size: tuple[int, ...]) -> UInt8[np.ndarray, "size size"]:
    """An X-ray of any size: means of areas where it shrinks, cubic where it grows."""
    method = cv2.INTER_CUBIC if size[0] > image.shape[0] else cv2.INTER_AREA
    return cv2.resize(image, size[::-1], interpolation=method)


def to_tokens(x: np.ndarray, size: tuple[int, ...], patch: tuple[int, ...]) -> np.ndarray:
    """An X-ray or volume brought to `size` and cut into patches: (n, v) in raster order, in the dtype of `x`."""
    return patches.patchify(shrink(x, size)[None], patch)[0]


def study(patient: str, name: str) -> np.int32:
    """A number that the pictures of one patient of one study, or under one report, share.

    Others share it once in four billion pairs.
    """
    digest = hashlib.blake2b(f"{patient}\0{name}".encode(), digest_size=4).digest()
    return np.frombuffer(digest, "<i4")[0]


def is_lateral(record: Mapping[str, Any]) -> np.bool_:
    """Whether the `view` of an X-ray's record is a lateral one; an unknown one, or none, counts as frontal."""
    return np.bool_(views.kind(records.text(record.get("view", ""))) == views.LATERAL)


@dataclasses.dataclass(frozen=True)
class ToSample:
    """Record to sample: `tokens` (n, v), `text` (l,) int32, `text_mask` (l,) bool, `id`, with `grouped` `study` int32.

    With `tells_lateral` it has `lateral`, a boolean, too: whether the record's `view` is a lateral one.

    Called with a generator it augments, without one it takes the centre. `keep` names further fields of the record that
    travel along untouched (evaluation: labels, masks). `texts` are the token sequences of an augmented sample, each
    with its mask: beside "text" the report that says the opposite ("negated"), and the half of the report's sentences
    that "text" then lacks ("other").
    """

    modality: str
    reports: Any  # a tokenizer of transformers; None: no report is read
    length: int
    crop: int  # X-rays: pixels cut out of the record
    image_size: int
    image_patch: tuple[int, int]
    volume_size: tuple[int, int, int]
    volume_patch: tuple[int, int, int]
    crop_shift: int = 16  # X-rays: pixels by which the cut may leave the centre
    crop_of: int = 0  # X-rays: pixels of the records that `crop` means; others are cut in proportion. 0: as many of any
    window: str = cuts.WHOLE  # CTs: the whole record, or a window of the network's size
    windows: tuple[int, int, int] = (1, 1, 1)  # of a CT that is evaluated, along z, y, x: `tokens` are (w, n, v)
    shift: tuple[int, int, int] = (0, 0, 0)  # CTs: voxels of the record's grid
    ct: VolumeAugmentation = UNCHANGED
    shuffle: bool = False  # sentences of reports
    sentences: float = 1.0  # share of a report's sentences that are read
    drop_technique: bool = False  # sentences that only name the examination are not read
    texts: tuple[str, ...] = ("text",)
    grouped: bool = False  # tell which pictures belong together
    tells_lateral: bool = False  # X-rays: what a network with `lateral_type` takes
    keep: tuple[str, ...] = ()
    _known: tokenised.Tokenised = dataclasses.field(
        default_factory=tokenised.Tokenised, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, modality: str, reports: Any, reading: InputConfig, model: ModelConfig) -> "ToSample":
        """What a network of these settings is trained on."""
        volume_size, volume_patch = model.ct_input
        sizes = {"image_size": model.image_size, "image_patch": model.image_patch}
        sizes |= {"volume_size": volume_size, "volume_patch": volume_patch}
        cut = {"crop": reading.crop, "crop_shift": reading.crop_shift, "shift": reading.ct_shift, "ct": reading.ct}
        cut |= {"window": reading.window, "windows": reading.windows}
        words = {"shuffle": reading.shuffle_sentences, "sentences": reading.sentences}
        words["drop_technique"] = reading.drop_technique
        words["tells_lateral"] = model.lateral_type and modality == "xray"
        return cls(modality, reports, reading.report_length, **sizes, **cut, **words)

    def keeping(self, most_bytes: int) -> "ToSample":
        """The same, with room for so many bytes of tokenised reports, none of them known yet."""
        other = dataclasses.replace(self)
        object.__setattr__(other, "_known", tokenised.Tokenised(most_bytes))
        return other

    @property
    def central(self) -> "ToSample":
        """The same, of several windows of a CT the central one alone."""
        return dataclasses.replace(self, windows=(1, 1, 1))

    @property
    def bytes(self) -> int:
        """Of a sample's tokens, next to which the rest is small."""
        return self.image_size**2 if self.modality == "xray" else 2 * math.prod(self.volume_size)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> Sample:
        xray = self.modality == "xray"
        sample = {"tokens": self.film(record["image"], rng) if xray else self.volume(record["volume"], rng)}
        if self.reports is not None:
            sample |= self._texts(records.text(record["report"]), rng)
        sample["id"] = records.text(record["id"])
        if self.grouped:
            sample["study"] = study(*records.study_key(record))
        if self.tells_lateral:
            sample["lateral"] = is_lateral(record)
        return sample | {name: self.view(name, record[name]) for name in self.keep if name in record}

    def film(self, image: UInt8[np.ndarray, "y x"], rng: np.random.Generator | None = None) -> UInt8[np.ndarray, "n v"]:
        """The tokens of an X-ray's record."""
        pixels = crop(image, self.cropped(len(image)), self.crop_shift, rng)
        size = (self.image_size,) * 2
        return np.ascontiguousarray(to_tokens(film(pixels, size), size, self.image_patch))

    def cropped(self, side: int) -> int:
        """Pixels of an X-ray's record of `side` pixels that are read."""
        return self.crop * side // self.crop_of if self.crop_of else self.crop

    def volume(self, volume: Int16[np.ndarray, "z y x"], rng: np.random.Generator | None = None) -> Tokens:
        """The tokens of a CT's record, (n, v), or (w, n, v) of several windows."""
        if rng is None and self.window != cuts.WHOLE and math.prod(self.windows) > 1:
            parts = [x[None] for x in cuts.views(volume, self.volume_size, self.windows)]
            return np.stack([patches.patchify(x, self.volume_patch)[0] for x in parts])
        if self.window != cuts.WHOLE:
            volume = cuts.window(volume, self._box(volume.shape, rng), self.volume_size, augmentation.AIR_HU)
        if rng is not None and any(self.shift):
            volume = shift(volume, self.shift, rng)
        if rng is not None:
            volume = augmentation.augment(volume, self.ct, rng)
        if not cuts.shrinks(volume.shape, self.volume_size):
            volume = cuts.resampled(volume, self.volume_size)
        return np.ascontiguousarray(to_tokens(volume, self.volume_size, self.volume_patch))

    def _box(self, shape: tuple[int, ...], rng: np.random.Generator | None) -> cuts.Box:
        if rng is None:
            return cuts.boxes(shape, self.volume_size, self.windows)[0]
        return cuts.random_box(shape, self.volume_size, rng)

    def view(self, name: str, value: Any) -> Any:
        """A field that is kept; volume and masks of a CT that is not seen as it lies in the record are cut, too."""
        if name not in cuts.OUTSIDE or self.modality != "ct":
            return value
        if self.window != cuts.WHOLE:
            return cuts.window(value, self._box(value.shape, None), self.volume_size, cuts.OUTSIDE[name])
        if cuts.shrinks(value.shape, self.volume_size):
            return value
        return (cuts.resampled if name == "volume" else cuts.resampled_mask)(value, self.volume_size)

    def _texts(self, report: str, rng: np.random.Generator | None) -> Sample:
        texts = {"text": report} if rng is None else self._augmented(report, rng)
        # Words that are drawn anew each time hardly ever come again.
        drawn = rng is not None and (self.shuffle or self.sentences < 1 or "other" in self.texts)
        encoded = {name: self._encode(t) if drawn else self._known.get(t, self._encode) for name, t in texts.items()}
        return {key: x for name, (ids, mask) in encoded.items() for key, x in ((name, ids), (f"{name}_mask", mask))}

    def _encode(self, text: str) -> tokenised.Encoded:
        ids, mask = tokenizer.encode(self.reports, [text], self.length)
        return ids[0], mask[0]

    def _augmented(self, report: str, rng: np.random.Generator) -> dict[str, str]:
        if self.drop_technique:
            report = sentences.without_technique(report)
        if self.sentences < 1:
            report = sentences.draw_part(report, self.sentences, rng)
        if self.shuffle:
            report = sentences.shuffle(report, rng)
        texts = {"text": report}
        if "other" in self.texts:
            texts["text"], texts["other"] = sentences.halves(report, rng)
        if "negated" in self.texts:
            texts["negated"] = negation.flip(texts["text"])
        return texts
