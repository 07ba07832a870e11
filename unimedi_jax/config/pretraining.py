"""Settings of pre-training: `config` of configs/pretrain.py, field for field."""

import dataclasses
import math
import re
from typing import Any

from unimedi_jax.config import checks, objectives
from unimedi_jax.config import trainable as rules

STEPS = 113_000  # 50 epochs of 217k X-rays at 96 a step
# Settings that are a share of config.steps until they are set.
SHARES = {
    "objective.temperature_warmup_steps": 0.6,  # iBOT: 30 of 50 epochs
    "optim.warmup_steps": 0.4,  # MGCA: 20 of 50 epochs
    "freeze_last_layer_steps": 0.02,  # DINO: the first epoch
}
# Zero-shot: similarity to a finding's prompts minus that to the prompts that deny it ("difference"), minus the mean of
# those to the other findings' prompts ("others"), or the "sum" of both; `metrics/zeroshot.py`.
SCORES = ("difference", "others", "sum")
NETWORKS = ("student", "teacher")
TRACKERS = ("wandb", "mlflow")
# What config.show_reports may say, in capitals or not: a boolean arrives as its name from a command line.
SHOWN = {"yes": True, "true": True, "no": False, "false": False, "auto": None}


def check_score(score: str) -> None:
    """Raises ValueError for a zero-shot score that is none of SCORES."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, not {score!r}")


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Weights to start from; empty: from the seed."""

    checkpoint: str = ""  # a run (its newest; RUN:best or RUN:600 for another checkpoint) or an export
    vision: str = ""  # a ViT in timm's names: file, folder, hub id or timm name
    report: str = ""  # a BERT (folder or hub id), whose tokenizer is then the run's


@dataclasses.dataclass(frozen=True)
class VolumeAugmentation:
    """How far CTs may be changed in training, anew each time; 0: not at all. They are never mirrored."""

    zoom: float = 0.0  # share by which the chest may grow or shrink about its centre
    scale: float = 0.0  # share by which HU may be scaled; water stays at 0
    offset: float = 0.0  # HU that may be added or subtracted
    noise: float = 0.0  # HU, standard deviation of the noise in each voxel of the record

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0 or max(self.zoom, self.scale) >= 1:
            raise ValueError("zoom and scale are shares from 0 to below 1, offset and noise are HU, at least 0")


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """How records are read, augmented and cut."""

    report_length: int = 112  # tokens of a report, as in MGCA
    report_buckets: tuple[int, ...] = ()  # shorter lengths, such as (48, 80): a batch takes the first that fits
    crop: int = 224  # side in pixels of the part of an X-ray's record that is read
    crop_shift: int = 16  # pixels by which the crop may leave the centre; 16: anywhere
    ct_shift: tuple[int, int, int] = (0, 0, 0)  # voxels of the record's grid by which a CT may move
    ct: VolumeAugmentation = VolumeAugmentation()
    # CTs: "whole", the record brought to config.model.volume_size; "random", a window of this many of its voxels,
    # anywhere in training and in the middle in evaluation.
    window: str = "whole"
    # Windows of an evaluated CT along z, y, x, evenly spread, whose vectors are averaged; (1, 1, 1): the middle one.
    windows: tuple[int, int, int] = (1, 1, 1)
    shuffle_sentences: bool = False  # PRIOR's augmentation of reports
    sentences: float = 1.0  # share of a report's sentences, at least one, that a step reads; drawn anew each time
    drop_technique: bool = False  # training skips sentences that only name the examination (input/sentences.py)
    # Samples of each of several sets: "weights", those of config.data; "sqrt", these times the root of its records.
    set_shares: str = "weights"
    # Rows of X-rays and CTs: "batch", config.batch; "sqrt", as many in all, by the square root of their records.
    modality_shares: str = "batch"
    # Whether images of one study, or of one patient under one report, are positives of their report and no negatives of
    # each other, in sets that have such images.
    group_studies: bool = True
    # Of a study in an epoch: "pictures", each by itself; "all", together in a batch, at most `most_of_study`; "one",
    # drawn anew; "frontal", the first frontal one, else the first.
    per_study: str = "pictures"
    most_of_study: int = 4  # images of a study that `per_study=all` takes at most
    threads: int = 4  # threads that read records and batch them
    # Processes that do so instead of threads, for devices so fast that threads would hold up the program; -1: none on
    # a CPU; on GPUs and TPUs four for each device of a host, on at most half of its cores.
    processes: int = -1
    max_damaged: float = 0.0  # share of a set's records that may be unreadable; the next ones replace them

    def __post_init__(self) -> None:
        checks.axes(self, 3, "ct_shift")
        checks.one_of(
            self,
            window=("whole", "random"),
            set_shares=("weights", "sqrt"),
            modality_shares=("batch", "sqrt"),
            per_study=("pictures", "all", "one", "frontal"),
        )
        if len(self.windows) != 3 or min(self.windows) < 1 or (max(self.windows) > 1 and self.window == "whole"):
            raise ValueError(
                f"config.input.windows={self.windows} are three numbers, z, y and x, of at least 1; several take "
                "config.input.window=random"
            )
        checks.at_least(self, 1, "most_of_study")
        checks.up_to_one(self, "sentences")


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """Samples on each device. 16 on each of 8 devices is the paper's global batch of 128."""

    xray: int = 12
    ct: int = 4
    # Samples on all devices together, X-rays to CTs as above: the same on any number of devices. 0: they grow with it.
    total: int = 0

    def __post_init__(self) -> None:
        if self.total and any(self.total * rows % max(self.xray + self.ct, 1) for rows in (self.xray, self.ct)):
            raise ValueError(
                f"config.batch.total={self.total} cannot be shared as {self.xray} X-rays to {self.ct} CTs: a multiple "
                f"of {(self.xray + self.ct) // math.gcd(self.xray, self.ct)} can"
            )

    def rows(self, devices: int) -> dict[str, int]:
        """Samples of each modality on so many devices together."""
        each = {"xray": self.xray, "ct": self.ct}
        if not self.total:
            return {name: rows * devices for name, rows in each.items()}
        return {name: self.total * rows // max(sum(each.values()), 1) for name, rows in each.items()}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Towers, tokenizers and heads. Sizes in pixels and voxels are those that the input pipeline delivers."""

    vision_size: str = "B"  # "Mu", "Ti", "S", "B", "L", as in unimedi_jax/models/sizes.py
    report_size: str = "B"  # likewise, of the report tower
    image_size: int = 224  # pixels of an X-ray along each side
    image_patch: tuple[int, int] = (16, 16)  # y, x
    volume_size: tuple[int, int, int] = (32, 128, 128)  # z, y, x
    volume_patch: tuple[int, int, int] = (4, 16, 16)  # also (1, 32, 32) or (16, 8, 8): all give 512 tokens
    # "nonlinear": beside the linear map of each patch, an MLP on each of its sub-patches; all of them and their maximum
    # are added to the token. For lesions smaller than a patch.
    tokenizer: str = "linear"
    image_subpatch: tuple[int, int] = (4, 4)  # pixels; must divide image_patch
    volume_subpatch: tuple[int, int, int] = (2, 4, 4)  # voxels; must divide volume_patch
    subpatch_hidden: int = 48  # units of both layers of the MLP
    window_hu: tuple[float, float] = (-1000.0, 1000.0)  # HU that become -1 and 1
    slices: int = 2  # k of the top-k, in depth layers of volume_patch[0] slices; 0: the volume alone
    slices_per_layer: int = 1  # slices that are cut from each chosen layer
    slice_size: int = 224  # pixels that a slice is resized to
    # Pixels, y and x, of the planes that slices are cut from, such as a record's (128, 128): multiples of volume_size.
    # (0, 0): the volume's own.
    slice_source: tuple[int, int] = (0, 0)
    frontal_view: bool = False  # a frontal projection of the CT, embedded as an X-ray, joins its slices
    # Momentum of the running mean of each depth layer's score. The mean is subtracted before layers are ranked, so that
    # the place of a slice does not count. 0: the scores as they are.
    slice_baseline: float = 0.0
    type_embedding: bool = False  # whether a learnt vector marks tokens as 2D or 3D
    lateral_type: bool = False  # whether a learnt vector marks lateral X-rays, by the records' `view`; unknown: frontal
    slice_embedding: bool = False  # whether a learnt vector marks the depth of a slice
    position_init: str = "normal"  # how the learnt position tables start; or "sincos"
    registers: int = 0  # learnt tokens after CLS that belong to no part of the image
    cls_key: bool = True  # whether CLS counts in the softmax of eq. 1
    score_layers: int = 0  # how many of the last layers eq. 1 uses; 0: all
    scores: str = "mean"  # the mean of CLS attention over layers and heads; or "rollout", attention rollout
    # A token does not count in a layer where its norm is an outlier: a modified z-score above this (3.5 is usual).
    # 0: all count.
    sink_norm: float = 0.0
    embedding: int = 128  # width of the joint space
    projection: str = "mlp"  # into the joint space; or "linear"
    projection_hidden: int = 2048  # units of its hidden layer
    norm_by_modality: bool = False  # the image projection has separate BatchNorms for X-rays and CTs
    prototypes_cls: int = 65536  # outputs of the head on CLS
    prototypes_patch: int = 8192  # outputs of the head on patches
    head_hidden: int = 2048  # units of the hidden layers of both heads
    head_bottleneck: int = 256  # units before the prototypes
    report_positions: int = 512  # the most tokens of a report
    report_dropout: float = 0.1  # dropout of the report tower in training
    report_pooling: str = "cls"  # what stands for a report: CLS; or "mean", of its tokens
    attention: str = "auto"  # "cudnn" on NVIDIA GPUs, "splash" on TPUs, "blocks" on CPUs; or "xla"
    # What the backward pass computes again, for less memory: "none", "dots" (all but dense layers), "full". "auto" is
    # "full" on TPU v5e and v6e, where it is also faster than copying what is kept into stacks, and "none" elsewhere.
    remat: str = "auto"
    layers: str = "auto"  # "unrolled" on GPUs, where it is faster; elsewhere "scanned", which compiles faster
    dtype: str = "bfloat16"  # type of the arithmetic; parameters, softmax and losses are float32

    def __post_init__(self) -> None:
        checks.axes(self, 2, "image_patch", "image_subpatch", "slice_source")
        checks.axes(self, 3, "volume_size", "volume_patch", "volume_subpatch")
        checks.window(self)
        checks.one_of(
            self,
            tokenizer=("linear", "nonlinear"),
            position_init=("normal", "sincos"),
            scores=("mean", "rollout"),
            projection=("mlp", "linear"),
            report_pooling=("cls", "mean"),
            attention=("auto", "xla", "blocks", "cudnn", "splash"),
            remat=("auto", "none", "dots", "full"),
            layers=("auto", "scanned", "unrolled"),
            dtype=("bfloat16", "float16", "float32"),
        )
        if self.tokenizer == "nonlinear":
            self._check_subpatches()
        if self.registers < 0 or self.score_layers < 0 or self.sink_norm < 0:
            raise ValueError("config.model.registers, score_layers and sink_norm are at least 0")
        if self.scores == "rollout" and (self.sink_norm or not self.cls_key):
            raise ValueError("config.model.scores='rollout' passes through all tokens: without sink_norm, with cls_key")
        self._check_slices()

    @property
    def ct_input(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Voxels of a CT in a batch, and of each of its tokens: the volume's, or finer planes that hold its slices."""
        plane = self.slice_source if any(self.slice_source) else self.volume_size[1:]
        finer = (whole // own for whole, own in zip(plane, self.volume_size[1:], strict=True))
        patch = (n * times for n, times in zip(self.volume_patch[1:], finer, strict=True))
        return (self.volume_size[0], *plane), (self.volume_patch[0], *patch)

    def _check_slices(self) -> None:
        pairs = zip(self.slice_source, self.volume_size[1:], strict=True)
        if any(self.slice_source) and any(whole < own or whole % own for whole, own in pairs):
            raise ValueError(
                f"config.model.slice_source={self.slice_source} is no multiple of the planes of "
                f"config.model.volume_size={self.volume_size}"
            )
        if (any(self.slice_source) or self.frontal_view or self.slice_baseline) and not self.slices:
            raise ValueError(
                "config.model.slice_source, frontal_view and slice_baseline take config.model.slices above 0"
            )
        if not 0 <= self.slice_baseline < 1:
            raise ValueError(f"config.model.slice_baseline is from 0 to below 1, not {self.slice_baseline}")

    def _check_subpatches(self) -> None:
        if self.subpatch_hidden < 1:
            raise ValueError(f"config.model.subpatch_hidden must be at least 1, not {self.subpatch_hidden}")
        for name in ("image", "volume"):
            patch, part = getattr(self, f"{name}_patch"), getattr(self, f"{name}_subpatch")
            if min(part) < 1 or any(n % m for n, m in zip(patch, part, strict=True)):
                raise ValueError(f"config.model.{name}_subpatch={part} does not divide {name}_patch={patch}")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and the schedule of its learning rate: linear warm-up, then half a cosine."""

    peak_lr: float = 2e-5  # the learning rate after the warm-up
    chosen_for: int = 128  # samples a step that peak_lr was chosen for; the log says where a run has another number
    start_lr: float = 1e-8  # where the warm-up begins
    end_lr: float = 1e-8
    warmup_steps: int = int(
        STEPS * SHARES["optim.warmup_steps"]
    )  # unless set, 0.4 of the steps (MGCA: 20 of 50 epochs)
    weight_decay: float = 0.05  # of the parameters that `decay` names
    decay: str = r"(kernel|embedding|last_layer)$"  # paths of the parameters that decay; MGCA decays ".*"
    b1: float = 0.9
    b2: float = 0.999
    # Type of AdamW's first moments: bfloat16 halves them. The second need float32: a step changes them by 1 - b2, less
    # than bfloat16 resolves.
    moment_dtype: str = "float32"
    clip_norm: float = 3.0  # the most that the global norm of the gradients may be; 0 = no clipping
    layer_decay: float = 1.0  # of the learning rate, from each layer of a tower to the one below; 1: the same for all

    def __post_init__(self) -> None:
        checks.up_to_one(self, "layer_decay")
        checks.one_of(self, moment_dtype=("float32", "bfloat16"))
        checks.pattern(self.decay, "decay")
        checks.below_one(self, "b1", "b2")


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    """Momentum of the teacher: half a cosine from the first step to the last."""

    base: float = 0.996  # at the first step
    final: float = 1.0  # at the last step


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1: all that are left."""

    data: int = -1
    fsdp: int = 1  # devices over which parameters and optimiser state are split; 1: every device has all


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved, and which checkpoints stay."""

    every: int = 1000  # steps between checkpoints
    keep: int = 2  # how many of the latest stay
    keep_every: int = 0  # steps between further checkpoints that stay; 0 = none
    keep_best: int = 1  # how many stay of those with the highest `best` in validation
    best: str = "xray/zeroshot/macro"  # the validation metric by which they are ranked


@dataclasses.dataclass(frozen=True)
class ResumeConfig:
    """How a run resumes."""

    force: bool = False  # whether it resumes although settings or data have changed


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """When losses that spike or are not finite stop a run or restore a checkpoint."""

    max_skipped: int = 10  # steps in a row with losses that are not finite after which the run stops
    spike: float = 6.0  # standard deviations above the mean of the last losses that are logged as a spike; 0 = none
    # Spikes in a row after which the checkpoint before them is restored, while the data moves on; 0 = never.
    rollback: int = 0
    max_rollbacks: int = 3  # rollbacks after which the run stops


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several hosts, each of which starts the same command with its own `process`."""

    coordinator: str = ""  # "host:port" of the first process, or "auto"
    processes: int = 1  # how many there are
    process: int = 0  # the number of this host's process, from 0
    timeout: int = 60  # seconds of silence after which a host counts as lost

    def __post_init__(self) -> None:
        if self.coordinator not in ("", "auto") and self.process >= self.processes:
            raise ValueError(f"process={self.process}, but processes={self.processes} are numbered from 0")


@dataclasses.dataclass(frozen=True)
class EvalsConfig:
    """Validation during the run."""

    every: int = 5000  # steps between validations; 0: none while the run trains
    network: str = "student"  # which network is evaluated; or "teacher"
    ct_slices: bool = True  # CTs are evaluated as trained, with their chosen slices; False: the volume alone
    rows: int = 16  # samples of a batch on each device
    limit: int = 256  # records of each split and modality; 0 = all, as evaluate, compare and ablate always take
    prompts: str = ""  # of zero-shot: a .json or .csv, "ct_clip" or "chexzero"; empty: the set's own
    score: str = "sum"  # zero-shot: minus denials ("difference"), minus other findings ("others"), or both

    def __post_init__(self) -> None:
        check_score(self.score)
        checks.one_of(self, network=NETWORKS)


def _objective() -> objectives.UniMedI:
    return objectives.UniMedI(temperature_warmup_steps=int(STEPS * SHARES["objective.temperature_warmup_steps"]))


def profile_steps(text: str) -> range:
    """The steps of "100:105", both ends included; none of "". Raises ValueError."""
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"config.profile={text}: the first and the last step, as in 100:105")
    return range(int(match[1]), int(match[2]) + 1)


def _check_sharding(sharding: Any) -> None:
    for rule in sharding:
        if isinstance(rule, str) or len(rule) != 2 or rule[1] not in ("fsdp", "replicate"):
            raise ValueError(f"config.sharding: {rule!r} is no pair such as ('vision/', 'fsdp') or ('.*', 'replicate')")
        checks.pattern(rule[0], "config.sharding")


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run."""

    job: str = "pretrain"
    seed: int = 42  # of weights, shuffling and augmentation
    steps: int = STEPS  # optimiser steps of the whole run
    log_every: int = 50  # steps between lines of the log
    compilations: str = "~/.cache/unimedi_jax"  # folder of compiled programs, unless JAX has one; "": not kept
    data: str = "phantom"  # built sets in data_dir, comma-separated, each with an optional :weight
    data_dir: str = "records"  # the folder of built sets
    tokenizer: str = ""  # a folder or hub id; empty: a WordPiece vocabulary of the sets' own reports
    init: InitConfig = InitConfig()
    input: InputConfig = InputConfig()
    batch: BatchConfig = BatchConfig()
    accumulate: int = 1  # parts of a batch, one after the other, where memory is short; all negatives are kept
    model: ModelConfig = ModelConfig()
    objective: Any = dataclasses.field(default_factory=_objective)  # one of unimedi_jax.config.objectives
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    # Steps for which the prototypes stay as initialised; unless set, 0.02 of the steps (DINO: the first epoch).
    freeze_last_layer_steps: int = int(STEPS * SHARES["freeze_last_layer_steps"])
    freeze_patch_embed: bool = False  # whether the tokenizers stay as initialised
    # (path, "full", "frozen" or "lora:rank=8:alpha=16"): what trains; the first path that matches, docs/fine_tuning.md.
    trainable: rules.Rules = rules.EVERYTHING
    mesh: MeshConfig = MeshConfig()
    # Pairs of a pattern and "fsdp" or "replicate": the first that matches the path of a parameter decides.
    sharding: tuple[tuple[str, str], ...] = ((".*", "fsdp"),)
    checkpoint: CheckpointConfig = CheckpointConfig()
    resume: ResumeConfig = ResumeConfig()
    guard: GuardConfig = GuardConfig()
    distributed: DistributedConfig = DistributedConfig()
    evals: EvalsConfig = EvalsConfig()
    # Whether to train although patients or images of the training data are in the test data.
    allow_leaks: bool = False
    show_reports: str = "auto"  # report texts on the page: "yes" or True, "no" or False, "auto" = the phantom's alone
    # "wandb", "mlflow" or "wandb,mlflow" also gets scalars, settings and the page; its own variables say where.
    track: str = ""
    profile: str = ""  # "100:105": a trace of these steps in the workdir's profile/, which TensorBoard and xprof open

    @property
    def reports_shown(self) -> bool | None:
        """Whether the page shows report texts; None: those of the phantom alone."""
        return SHOWN[str(self.show_reports).lower()]

    def __post_init__(self) -> None:
        rules.check(self.trainable)
        _check_sharding(self.sharding)
        if str(self.show_reports).lower() not in SHOWN:
            raise ValueError(f"config.show_reports is yes, no or auto, not {self.show_reports!r}")
        if self.accumulate > 1 and self.objective.name != "unimedi":
            raise ValueError(
                f"config.accumulate divides batches of UniMedI's objective alone, not {self.objective.name}'s"
            )
        if self.freeze_patch_embed and self.init.vision and self.model.tokenizer == "nonlinear":
            raise ValueError(
                "config.freeze_patch_embed=True would keep the sub-patches' part of the tokenizer at zero, where "
                "config.init.vision starts it: set config.model.tokenizer='linear'"
            )
        if (any(self.model.slice_source) or self.model.frontal_view) and self.objective.name != "unimedi":
            raise ValueError(
                "config.model.slice_source and frontal_view are for UniMedI's objective, whose CTs have slices, not "
                f"{self.objective.name}'s"
            )
        if (any(self.model.slice_source) or self.model.frontal_view) and self.objective.two_views:
            raise ValueError(
                "config.objective.two_views cuts a CT's tokens, and config.model.slice_source and frontal_view bring "
                "others: use either"
            )
        if self.accumulate > 1 and (whole := self.objective.needs_whole_batch):
            raise ValueError(
                f"config.accumulate={self.accumulate} divides the batch, but config.objective.{whole[0]} needs all of "
                "it at once: set config.accumulate=1"
            )
        if self.steps < 1 or self.log_every < 1 or self.checkpoint.every < 1:
            raise ValueError("config.steps, config.log_every and config.checkpoint.every are at least 1")
        profile_steps(self.profile)
        if unknown := {name.strip() for name in self.track.split(",")} - {"", *TRACKERS}:
            raise ValueError(f"config.track={self.track}: {min(unknown)!r} is none of {', '.join(TRACKERS)}")
        length, buckets, crop = self.input.report_length, self.input.report_buckets, self.input.crop
        if length > self.model.report_positions:
            raise ValueError(
                f"config.input.report_length={length} exceeds "
                f"config.model.report_positions={self.model.report_positions}"
            )
        if any(not 2 < bucket < length for bucket in buckets):
            raise ValueError(
                f"config.input.report_buckets={buckets} are not all below config.input.report_length={length}: "
                "change them, or leave them out by --config.input.report_buckets='()'"
            )
        if crop % self.model.image_size:
            raise ValueError(
                f"config.input.crop={crop} is no multiple of config.model.image_size={self.model.image_size}: X-rays "
                "are shrunk by means of blocks"
            )
