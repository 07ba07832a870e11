"""How downstream networks are trained: sections of the settings in jobs.py."""

import dataclasses

from unimedi_jax.config import checks

ABSENT = ("zero", "skip", "one")  # what a structure that the truth lacks counts as


def check_absent(rule: str) -> None:
    """Raises ValueError for a rule that is none of ABSENT."""
    if rule not in ABSENT:
        raise ValueError(f"absent must be one of {', '.join(ABSENT)}, not {rule!r}")


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How a network is trained for a downstream task: AdamW, stopped early by the validation patients."""

    batch: int = 16
    epochs: int = 50
    patience: int = 10  # epochs without a better validation score
    lr: float = 5e-4  # learning rate of the head or decoder
    encoder_lr: float = 5e-5
    weight_decay: float = 1e-6
    warmup: float = 0.0  # share of all steps in which the rates rise from 0
    cosine: bool = False  # then they fall to 0 along a cosine; False: they stay
    layer_decay: float = 1.0  # of the encoder's rate, from each of its layers to the one below; 1: the same for all
    l2: float = 0.0  # weight decay as a part of the gradient, as PyTorch's Adam has it; AdamW's is `weight_decay`
    plateau: int = 0  # epochs without a better validation score after which the rates are halved; 0: never

    def __post_init__(self) -> None:
        """Raises ValueError for a factor that is none."""
        checks.up_to_one(self, "layer_decay")


# Models Genesis's task NCC: Adam, until the validation loss has been no better for ten epochs.
GENESIS = FitConfig(24, epochs=10_000, patience=10, lr=1e-3, encoder_lr=1e-3, weight_decay=0.0, plateau=6)


@dataclasses.dataclass(frozen=True)
class CropsConfig:
    """Decoders trained on crops of CTs at their own resolution, by the recipe of the protocol."""

    spacing_mm: tuple[float, ...] = (2.0, 1.5, 1.5)  # (z, y, x) that the set was built with; empty: any
    window_hu: tuple[float, ...] = (-175.0, 250.0)  # what the network sees; a CT is cut to the box of all above it
    crop: tuple[int, ...] = (96, 96, 96)  # voxels (z, y, x)
    cts: int = 1  # of a step
    crops: int = 4  # of each of its CTs
    positive: float = 0.5  # share of the crops around a voxel of a structure; the others are around none
    steps: int = 120_000  # UNETR: 5,000 epochs of 24 CTs; VoCo: 1,000 of 200
    validations: int = 50  # spread evenly over the steps; the best state is taken
    lr: float = 1e-4
    encoder_lr: float = 1e-4
    weight_decay: float = 1e-5
    warmup: float = 0.01  # share of the steps
    flip: float = 0.2  # chance along each axis; never where the name of a structure says left or right
    rotate: float = 0.2  # chance of quarter turns in the axial plane
    scale: float = 0.1  # chance of a factor of 0.9 to 1.1 on the intensities
    shift: float = 0.1  # chance of up to a tenth of the window more or less
    layer_decay: float = 1.0  # of the encoder's rate, from layer to layer downwards
    overlap: float = 0.5  # of the windows in which a CT is predicted, blended by Gaussian weights
    absent: str = "zero"  # what a structure that the truth lacks counts as: "zero", "skip" or "one"

    def __post_init__(self) -> None:
        """Raises ValueError for what does not fit together."""
        check_absent(self.absent)
        checks.axes(self, 3, "crop", *("spacing_mm",) * bool(self.spacing_mm))
        checks.window(self)
        checks.below_one(self, "overlap")  # with 1 the windows would never move on
        checks.up_to_one(self, "layer_decay")

    @property
    def fit(self) -> FitConfig:
        """As epochs from one validation to the next."""
        rates = {name: getattr(self, name) for name in ("lr", "encoder_lr", "weight_decay", "warmup", "layer_decay")}
        batch, count = self.cts * self.crops, min(self.validations, self.steps)
        return FitConfig(batch, epochs=count, patience=count, cosine=True, **rates)


# VoCo's recipe for AMOS22: 1,000 epochs of 200 CTs.
VOCO = CropsConfig(
    spacing_mm=(1.5, 1.5, 1.5),
    crops=16,
    positive=0.9,
    steps=200_000,
    validations=20,
    lr=3e-4,
    encoder_lr=3e-4,
    weight_decay=0.005,
    warmup=0.05,
    scale=0.0,
    shift=0.0,
    overlap=0.75,
    absent="skip",
)


@dataclasses.dataclass(frozen=True)
class StrongConfig:
    """Chances of UniMiSS's changes of a CT, in the order of its code (`unimedi_jax/input/unimiss_augmentation.py`)."""

    elastic: float = 0.2
    rotate: float = 0.2
    zoom: float = 0.2
    noise: float = 0.1
    blur: float = 0.1  # of a sample 0.2, of its only channel 0.5
    multiply: float = 0.15
    add: float = 0.075  # 0.15 and 0.5
    contrast: float = 0.15
    coarse: float = 0.125  # 0.25 and 0.5
    gamma: float = 0.15


UNCHANGED = StrongConfig(*(0.0,) * len(dataclasses.fields(StrongConfig)))


@dataclasses.dataclass(frozen=True)
class VolumesConfig:
    """Classifiers of CTs fine-tuned at a size of their own, by the recipe of the protocol."""

    size: tuple[int, ...] = (64, 128, 128)  # voxels (z, y, x) that a whole record is brought to
    window_hu: tuple[float, ...] = (-1024.0, 325.0)  # what the network sees
    share: float = 1.0  # of the plane's sides that is cut out of its middle
    standardise: bool = False  # to mean 0 and deviation 1 of each CT, in place of the encoder's own scale
    batch: int = 8
    least: int = 512  # training cases of an epoch: a shorter list is repeated until there are as many
    epochs: int = 200
    patience: int = 30  # epochs without a better validation score
    best: str = "auroc"  # what that is: "auroc", "accuracy" or "loss"
    lr: float = 1e-5
    encoder_lr: float = 1e-5
    weight_decay: float = 5e-3
    l2: float = 0.0  # weight decay as a part of the gradient (Adam)
    warmup: float = 0.0  # share of all steps
    cosine: bool = False
    layer_decay: float = 1.0  # of the encoder's rate, from layer to layer downwards
    strong: StrongConfig = StrongConfig()
    flips: float = 1.0  # chance of the mirroring below
    flip: tuple[float, ...] = (0.5, 0.5, 0.5)  # chances along z, y, x; none where a label says left or right
    intensity: float = 0.0  # chance of the two below
    add: float = 0.0  # most, of the window
    multiply: float = 0.0  # most beside 1
    offset: float = 0.0  # most by which the cut leaves the middle, of the plane's side

    def __post_init__(self) -> None:
        """Raises ValueError for what does not fit together."""
        checks.axes(self, 3, "size", "flip")
        checks.window(self)
        checks.one_of(self, best=("auroc", "accuracy", "loss"))
        checks.up_to_one(self, "share", "layer_decay")

    @property
    def fit(self) -> FitConfig:
        """Rates, length and stop."""
        names = {field.name for field in dataclasses.fields(FitConfig)} & {x.name for x in dataclasses.fields(self)}
        return FitConfig(**{name: getattr(self, name) for name in names})


# covid19_pipeline/config/ccccii_config.yml of HKBU's code: 128 pixels out of the middle of 160, Adam, CTs that are
# standardised one by one. It takes the epoch that is best on the test list; here there is none but the last.
HKBU = VolumesConfig(
    window_hu=(-1000.0, 1000.0),
    share=0.8,
    standardise=True,
    batch=9,
    least=0,
    epochs=100,
    patience=100,
    best="accuracy",
    lr=1e-3,
    encoder_lr=1e-3,
    weight_decay=0.0,
    l2=5e-4,
    cosine=True,
    strong=UNCHANGED,
    flips=0.5,
)
# VoCo's for CC-CCII: 384 of 512 pixels, moved by up to 18.
VOCO_VOLUMES = VolumesConfig(
    size=(64, 384, 384),
    window_hu=(-1000.0, 1000.0),
    share=0.75,
    batch=4,
    least=0,
    epochs=100,
    patience=100,
    best="accuracy",
    lr=1e-4,
    encoder_lr=1e-4,
    weight_decay=1e-2,
    warmup=0.05,
    cosine=True,
    strong=UNCHANGED,
    flip=(0.5, 0.0, 0.0),
    intensity=1.0,
    add=0.07,
    multiply=0.05,
    offset=18 / 512,
)
