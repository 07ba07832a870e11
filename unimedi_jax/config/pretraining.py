"""Settings of pre-training: `config` of configs/pretrain.py, field for field."""

import dataclasses
from typing import Any

from unimedi_jax.config import objectives

STEPS = 113_000  # 50 epochs of 217k X-rays at 96 a step
# Settings that are a share of config.steps until they are set.
SHARES = {
    "objective.temperature_warmup_steps": 0.6,  # iBOT: 30 of 50 epochs
    "optim.warmup_steps": 0.4,  # MGCA: 20 of 50 epochs
    "freeze_last_layer_steps": 0.02,  # DINO: the first epoch
}


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Weights to start from; empty: from the seed."""

    checkpoint: str = ""  # a run (its newest; RUN:best or RUN:600 for another checkpoint) or an export
    vision: str = ""  # a ViT in timm's names: file, folder, hub id or timm name
    report: str = ""  # a BERT (folder or hub id), whose tokenizer is then the run's


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """How records are read, augmented and cut."""

    report_length: int = 112  # tokens, as MGCA
    report_buckets: tuple[int, ...] = ()  # lengths below, such as (48, 80): a batch takes the first that fits
    crop: int = 224  # pixels of the 256 x 256 record
    crop_shift: int = 16  # pixels by which the crop may leave the centre: here, anywhere
    ct_shift: tuple[int, int, int] = (0, 0, 0)  # voxels of the record's grid by which a CT may move
    shuffle_sentences: bool = False  # PRIOR's augmentation of reports
    threads: int = 4  # that read records and batch them
    # Processes that do so instead of threads, where the device is so fast that threads would hold up its program;
    # -1: none beside a CPU, four a device of a host beside GPUs and TPUs, of at most half its cores.
    processes: int = -1
    max_damaged: float = 0.0  # share of a set's records that may be unreadable; the next ones replace them

    def __post_init__(self) -> None:
        if len(self.ct_shift) != 3:
            raise ValueError(f"ct_shift is three numbers of voxels, z, y and x, not {self.ct_shift}")


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """Samples a device. 16 on each of 8 devices is the paper's global batch of 128."""

    xray: int = 12
    ct: int = 4


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Towers, tokenizers and heads. Sizes in pixels and voxels are those that the input pipeline delivers."""

    vision_size: str = "B"  # "Mu", "Ti", "S", "B", "L", as in unimedi_jax/models/sizes.py
    report_size: str = "B"
    image_size: int = 224
    image_patch: tuple[int, int] = (16, 16)
    volume_size: tuple[int, int, int] = (32, 128, 128)  # z, y, x
    volume_patch: tuple[int, int, int] = (4, 16, 16)  # also (1, 32, 32) or (16, 8, 8): all give 512 tokens
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    slices: int = 2  # k of the top-k, in depth layers of volume_patch[0] slices; 0: the volume alone
    slices_per_layer: int = 1
    slice_size: int = 224  # pixels that a slice is resized to
    type_embedding: bool = False
    slice_embedding: bool = False
    position_init: str = "normal"  # of the learned tables; or "sincos"
    cls_key: bool = True
    embedding: int = 128  # width of the joint space
    projection: str = "mlp"  # or "linear"
    projection_hidden: int = 2048
    norm_by_modality: bool = False  # the image projection has separate BatchNorms for X-rays and CTs
    prototypes_cls: int = 65536
    prototypes_patch: int = 8192
    head_hidden: int = 2048
    head_bottleneck: int = 256
    report_positions: int = 512
    report_dropout: float = 0.1
    report_pooling: str = "cls"  # or "mean"
    attention: str = "auto"  # the device's: "cudnn" on NVIDIA, "splash" on TPUs, "blocks" on CPUs; or "xla"
    remat: str = "none"  # "dots" and "full" trade arithmetic for memory
    layers: str = "auto"  # "unrolled" on GPUs, which is faster there, else "scanned", which compiles faster
    dtype: str = "bfloat16"  # of the arithmetic; parameters, softmax and losses are float32

    def __post_init__(self) -> None:
        if self.layers not in (allowed := ("auto", "scanned", "unrolled")):
            raise ValueError(f"layers is one of {', '.join(allowed)}, not {self.layers!r}")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and the schedule of its learning rate: linear warm-up, then half a cosine."""

    peak_lr: float = 2e-5
    start_lr: float = 1e-8
    end_lr: float = 1e-8
    warmup_steps: int = int(STEPS * SHARES["optim.warmup_steps"])  # until set 0.4 of the steps (MGCA: 20 of 50 epochs)
    weight_decay: float = 0.05
    decay: str = r"(kernel|embedding|last_layer)$"  # paths of the parameters that decay; MGCA decays ".*"
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 3.0  # of the global norm of the gradients; 0 = no clipping


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    """Momentum of the teacher: half a cosine from the first step to the last."""

    base: float = 0.996
    final: float = 1.0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1: all that are left."""

    data: int = -1
    fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved, and which checkpoints stay."""

    every: int = 1000  # steps
    keep: int = 2  # the latest
    keep_every: int = 0  # and one each so many steps, 0 = none
    keep_best: int = 1  # and those with the highest `best` in validation
    best: str = "xray/zeroshot/macro"


@dataclasses.dataclass(frozen=True)
class ResumeConfig:
    """How a run goes on."""

    force: bool = False  # go on though settings or data have changed


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """When losses that spike or are not finite stop a run or send it back."""

    max_skipped: int = 10  # steps in a row that were not finite before the run stops
    spike: float = 6.0  # standard deviations above the mean of the last losses that are worth a line; 0 = none
    # Spikes in a row after which the state goes back to the checkpoint before them, the data on; 0 = never.
    rollback: int = 0
    max_rollbacks: int = 3  # of a run before it stops


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several hosts, each of which starts the same command with its own `process`."""

    coordinator: str = ""  # "host:port" of the first process, or "auto"
    processes: int = 1
    process: int = 0  # of this host
    timeout: int = 60  # seconds


@dataclasses.dataclass(frozen=True)
class EvalsConfig:
    """Validation during the run."""

    every: int = 5000  # steps
    network: str = "student"  # or "teacher"
    ct_slices: bool = True  # CTs as trained, with their chosen slices; False: the volume alone
    rows: int = 16  # a device, per batch
    limit: int = 256  # records a split and modality, 0 = all; configs/evaluate.py takes all in any case


def _objective() -> objectives.UniMedI:
    return objectives.UniMedI(temperature_warmup_steps=int(STEPS * SHARES["objective.temperature_warmup_steps"]))


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """A whole run."""

    job: str = "pretrain"
    seed: int = 42
    steps: int = STEPS
    log_every: int = 50
    compilations: str = "~/.cache/unimedi_jax"  # compiled programs: a second start compiles nothing; "": not kept
    data: str = "phantom"  # built sets in data_dir, comma-separated, each with an optional :weight
    data_dir: str = "records"
    tokenizer: str = ""  # a folder or hub id; none: the sets' own WordPiece vocabulary
    init: InitConfig = InitConfig()
    input: InputConfig = InputConfig()
    batch: BatchConfig = BatchConfig()
    accumulate: int = 1  # parts of a batch that pass one after the other where memory is short; negatives stay all
    model: ModelConfig = ModelConfig()
    objective: Any = dataclasses.field(default_factory=_objective)  # one of unimedi_jax.config.objectives
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    # Steps in which the prototypes stay as they were initialised; until set 0.02 of the steps (DINO: the first epoch).
    freeze_last_layer_steps: int = int(STEPS * SHARES["freeze_last_layer_steps"])
    freeze_patch_embed: bool = False  # the tokenizers' projections stay as they were initialised
    mesh: MeshConfig = MeshConfig()
    sharding: tuple[tuple[str, str], ...] = ((".*", "fsdp"),)  # first path that matches: "fsdp" or "replicate"
    checkpoint: CheckpointConfig = CheckpointConfig()
    resume: ResumeConfig = ResumeConfig()
    guard: GuardConfig = GuardConfig()
    distributed: DistributedConfig = DistributedConfig()
    evals: EvalsConfig = EvalsConfig()
    show_reports: str = "auto"  # report texts on the page: "yes", "no", "auto" = the phantom's alone

    def __post_init__(self) -> None:
        if self.accumulate > 1 and self.objective.name != "unimedi":
            raise ValueError(
                f"config.accumulate divides batches of UniMedI's objective alone, not {self.objective.name}'s"
            )
        if self.steps < 1 or self.log_every < 1 or self.checkpoint.every < 1:
            raise ValueError("config.steps, config.log_every and config.checkpoint.every are at least 1")
        length, buckets, crop = self.input.report_length, self.input.report_buckets, self.input.crop
        if length > self.model.report_positions:
            raise ValueError(
                f"config.input.report_length={length} exceeds "
                f"config.model.report_positions={self.model.report_positions}"
            )
        if any(not 2 < bucket < length for bucket in buckets):
            raise ValueError(
                f"config.input.report_buckets={buckets} are lengths below config.input.report_length={length}"
            )
        if crop > 256 or crop % self.model.image_size:
            raise ValueError(
                f"config.input.crop={crop} is at most 256 and a multiple of "
                f"config.model.image_size={self.model.image_size}"
            )
