"""Settings of every job but pre-training and building: `config` of configs/<job>.py, field for field."""

import dataclasses

from unimedi_jax.config import checks
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.pretraining import SHOWN, PretrainConfig, check_score
from unimedi_jax.config.recipes import GENESIS, HKBU, VOCO, VOCO_VOLUMES, CropsConfig, FitConfig, VolumesConfig


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """What a built set, a run or an export holds, and how its records were made."""

    job: str = "inspect"
    path: str = ""  # a set's folder, a run's workdir, an export


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """Whether names, identifiers or report text of a raw source have reached a folder."""

    job: str = "audit"
    path: str = ""  # a run's workdir, a set's folder, an export
    source: str = ""  # the CSV that the set was built from
    reports: bool = False  # search the records' report fields, where report text belongs, for report text too


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """A checkpoint as files for timm, transformers and plain PyTorch."""

    job: str = "export"
    checkpoint: str = ""  # a run's workdir (its newest; RUN:best or RUN:600 for another checkpoint), or an export
    network: str = "student"  # or "teacher": its visual side
    adapters: str = ""  # the adapters.safetensors of another export (LoRA), to be merged into this network
    out: str = ""  # a folder that does not exist yet
    rgb: bool = False  # also the ViT for three equal channels
    onnx: bool = False  # also the encoders as ONNX
    licence: str = ""  # licence of the weights, as the hub names it; empty: the phantom's apache-2.0, others' unknown
    push: str = ""  # org/name: upload the export to the Hugging Face hub; without `out`, the export `checkpoint` names
    public: bool = False  # for push: whether everybody may see it
    dry_run: bool = False  # for push: print what would be uploaded, send nothing
    source: str = ""  # for push: the CSV of the set; its identifiers are searched for first. "none": no search


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Embeddings of files by a trained network."""

    job: str = "embed"
    # A run's workdir (its newest; RUN:best or RUN:600 for another checkpoint), an export, or a released encoder:
    # timm:FILE or hf:FOLDER_OR_ID (docs/encoders.md).
    checkpoint: str = ""
    network: str = "student"  # or "teacher": its visual side
    # A file, a folder, a DICOM series, a manifest (.csv), reports (.txt, one a line), or dicomweb:URL?study=UID.
    source: str = ""
    out: str = ""  # .npz or .parquet
    maps: str = ""  # a folder for chosen slices and attention: PNG, and NIfTI on a CT's own voxels
    rows: int = 8  # samples of a batch on each device
    ct_slices: bool | None = None  # CTs with their chosen slices, or by the volume alone; None: as in the run
    worker_memory_gb: float = 2.0  # a file that would take more to read is refused by its size
    download_gb: float = 4.0  # of a study from a DICOMweb server


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Findings, masks or boxes of X-rays and CTs by a trained network."""

    job: str = "predict"
    # A run's workdir (its newest; RUN:best or RUN:600 for another checkpoint), an export, or a released encoder:
    # timm:FILE or hf:FOLDER_OR_ID (docs/encoders.md).
    checkpoint: str = ""
    network: str = "student"  # or "teacher": its visual side
    # A file, a folder, a DICOM series, a .csv with the columns path and modality, or dicomweb:URL?study=UID.
    source: str = ""
    out: str = ""  # a .csv; masks and drawn boxes go into the folder of that name beside it
    head: str = ""  # the workdir of probe, segment or detect, or a folder in its heads/; empty: zero-shot, by prompts
    rows: int = 8  # samples of a batch on each device
    ct_slices: bool | None = None  # zero-shot on CTs with their chosen slices; None: as in the run. A head has its own
    prompts: str = ""  # of zero-shot: a .json or .csv, "ct_clip" or "chexzero"; empty: those of the run's sets
    score: str = "sum"  # zero-shot: minus denials ("difference"), minus other findings ("others"), or both
    worker_memory_gb: float = 2.0  # a file that would take more to read is refused by its size
    download_gb: float = 4.0  # of a study from a DICOMweb server

    def __post_init__(self) -> None:
        check_score(self.score)
        if self.rows < 1:
            raise ValueError(f"config.rows must be at least 1, not {self.rows}")


LARGEST_PICTURE = 1024  # pixels of a side, of the small pictures in an index


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Similar cases by picture, by sentence or by both, from an index of embeddings (docs/search.md)."""

    job: str = "search"
    index: str = ""  # its folder; made from `data` or `source` where there is none yet
    # A run's workdir (its newest; RUN:best or RUN:600 for another checkpoint), an export, or a released encoder:
    # timm:FILE or hf:FOLDER_OR_ID (docs/encoders.md). Queries need the one that made the index.
    checkpoint: str = ""
    network: str = "student"  # or "teacher": its visual side
    data: str = ""  # what to index: built sets, comma-separated
    data_dir: str = "records"
    source: str = ""  # or a .npz or .parquet of configs/embed.py, or what its config.source takes
    keep_reports: bool = False  # put the texts of reports into the index: without them no page can show any
    picture_size: int = 96  # pixels of the small pictures in the index, at most 1024; 0 = none
    query: str = ""  # an X-ray or CT: a file, a DICOM series or dicomweb:URL?study=UID
    text: str = ""  # a sentence; with `query` the sum of both
    k: int = 10  # nearest pictures and nearest reports that are shown
    modality: str = ""  # "xray" or "ct": such cases alone
    split: str = ""  # cases of this split alone
    label: str = ""  # cases that have this finding alone
    out: str = ""  # a .json or .html for the answer
    serve: int = 0  # the port of a page on this machine's loopback; 0 = none
    show_reports: str = "no"  # "yes": texts of reports on the page, in the table and in `out`
    delete: str = ""  # a patient (or a case's id) whose cases are removed from the index
    exact: int = 1_000_000  # up to this many cases all are compared; with more, a graph is walked (needs faiss)
    rows: int = 8  # a batch and device
    ct_slices: bool | None = None  # CTs with their chosen slices, or by the volume alone; None: as in the run
    worker_memory_gb: float = 2.0  # a picture that would take more to read is refused by its size
    upload_mb: int = 512  # of one query sent to the page
    upload_seconds: int = 60  # for which an upload may be read
    download_gb: float = 4.0  # of a study from a DICOMweb server

    def __post_init__(self) -> None:
        if SHOWN.get(str(self.show_reports).lower()) is None:
            raise ValueError(f"config.show_reports is yes or no, not {self.show_reports!r}")
        if self.serve > 65535:
            raise ValueError(f"config.serve must be a port up to 65535, not {self.serve}")
        if not 0 <= self.picture_size <= LARGEST_PICTURE:
            raise ValueError(f"config.picture_size must be 0 to {LARGEST_PICTURE}, not {self.picture_size}")

    @property
    def shows_reports(self) -> bool:
        """What `show_reports` says."""
        return bool(SHOWN[str(self.show_reports).lower()])


PROTOCOLS = ("ours", "mgca")  # of evaluations; docs/protocols.md
IN_CROPS = ("unetr", "voco")  # those of segmentation that train on crops of CTs at their own resolution
OF_VOLUMES = ("unimiss", "hkbu", "voco")  # those of classification that fine-tune on whole CTs
OF_CANDIDATES = ("genesis",)  # those of candidates of nodules


def check_protocol(protocol: str, *others: str) -> None:
    """Raises ValueError for a protocol that is none of PROTOCOLS, nor one of the `others` that a job has."""
    if protocol not in (*PROTOCOLS, *others):
        raise ValueError(f"protocol must be one of {', '.join((*PROTOCOLS, *others))}, not {protocol!r}")


def check_trainable(config: "ProbeConfig | SegmentConfig | DetectConfig") -> None:
    """Raises ValueError for rules of `trainable` that mean nothing, or that no way of tuning uses."""
    rules.check(config.trainable)
    if config.trainable != rules.EVERYTHING and "full" not in config.tune.split(","):
        raise ValueError("config.trainable is about the network of config.tune=full: set that too")


@dataclasses.dataclass(frozen=True)
class DownstreamConfig:
    """What the evaluations share."""

    # A run's workdir (its newest; RUN:best or RUN:600 for another checkpoint), an export, or a released encoder:
    # timm:FILE or hf:FOLDER_OR_ID (docs/encoders.md).
    checkpoint: str = ""
    network: str = "student"  # or "teacher"
    data: str = "phantom"  # a built set
    data_dir: str = "records"
    untrained: bool = True  # whether an untrained network is measured beside it
    resamples: int = 1000  # resamples of the bootstrap intervals
    allow_leaks: bool = False  # whether to measure although the network learnt from patients or images tested on


@dataclasses.dataclass(frozen=True)
class ProbeConfig(DownstreamConfig):
    """Classification of findings with a trained encoder."""

    job: str = "probe"
    modality: str = ""  # "xray" or "ct"; empty: all that the set has
    tune: str = "linear"  # a linear classifier on the frozen encoder; or "full": the encoder is fine-tuned
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)  # of the training cases, stratified draws
    seeds: tuple[int, ...] = (0, 1, 2)  # of the draws, and of full fine-tuning
    ct_slices: bool | None = None  # CTs with their chosen slices, or by the volume alone; None: as in the run
    rows: int = 32  # samples of a batch on each device, when embedding
    # Of tune=full: MGCA's recipe for its linear classifier, where the encoder learns ten times slower (our choice).
    full: FitConfig = FitConfig(batch=48)
    # "mgca": its linear classifier by its own solver, augmentation and draws, in rows of their own (docs/protocols.md).
    # "unimiss" (RICORD), "hkbu", "voco" (CC-CCII): CTs fine-tuned at a size of their own; set tune=full.
    protocol: str = "ours"
    mgca: FitConfig = FitConfig(batch=48)  # of protocol "mgca", whose encoder is frozen
    unimiss: VolumesConfig = VolumesConfig()  # of protocol "unimiss"
    hkbu: VolumesConfig = HKBU
    voco: VolumesConfig = VOCO_VOLUMES
    trainable: rules.Rules = rules.EVERYTHING  # of tune=full: paths and what becomes of them, docs/fine_tuning.md

    def __post_init__(self) -> None:
        check_protocol(self.protocol, *OF_VOLUMES)
        check_trainable(self)
        if (self.protocol in OF_VOLUMES) != (self.tune == "full") and self.protocol != "ours":
            kind, tune = ("fine-tuned", "full") if self.protocol in OF_VOLUMES else ("linear", "linear")
            raise ValueError(f"config.protocol={self.protocol} is that of a {kind} classifier: set config.tune={tune}")

    @property
    def volumes(self) -> VolumesConfig:
        """The recipe of a protocol of whole CTs."""
        return {"unimiss": self.unimiss, "hkbu": self.hkbu, "voco": self.voco}[self.protocol]


@dataclasses.dataclass(frozen=True)
class RetrieveConfig(DownstreamConfig):
    """Retrieval and zero-shot classification with a trained model."""

    job: str = "retrieve"
    data: str = "phantom"  # built sets, comma-separated
    ct_slices: bool | None = None  # CTs with their chosen slices, or by the volume alone; None: as in the run
    each: int = 200  # patients of each finding for the precision at k (CheXpert 5x200)
    rows: int = 32  # samples of a batch on each device, when embedding
    prompts: str = ""  # of zero-shot: a .json or .csv, "ct_clip" or "chexzero"; empty: the set's own
    score: str = "sum"  # zero-shot: minus denials ("difference"), minus other findings ("others"), or both

    def __post_init__(self) -> None:
        check_score(self.score)


@dataclasses.dataclass(frozen=True)
class SegmentTask:
    """How decoders are trained and measured."""

    tune: str = "frozen,full"  # of the encoder; the decoder is always trained
    shares: tuple[float, ...] = (1.0,)  # of the training cases: RSNA and SIIM 0.01, 0.1, 1; AMOS 0.2, 0.4, 1
    limit: int = 0  # cases of each split; 0 = all
    tolerance: float = 2.0  # of NSD, mm (pixels for X-rays)
    setr_channels: tuple[int, ...] = (512, 256, 128, 64)
    unetr_features: int = 16
    unetr_norm: bool = False  # the encoder's states normalised by channel; UNETR takes them raw
    xray: FitConfig = FitConfig(weight_decay=0.05)  # MGCA's recipe
    # UNETR's AdamW; its thousands of epochs on 24 cases are not meant for larger sets.
    ct: FitConfig = FitConfig(batch=8, epochs=100, lr=1e-4, encoder_lr=1e-4, weight_decay=1e-5)


@dataclasses.dataclass(frozen=True)
class SegmentConfig(SegmentTask, DownstreamConfig):
    """Segmentation with a trained encoder."""

    job: str = "segment"
    modality: str = ""  # "xray" or "ct"; empty: all that the set has
    target: str = "organs"  # "lesions": one class whatever the finding; "boxes": their union, as RSNA's
    seeds: tuple[int, ...] = (0,)
    windows: bool = False  # CTs at the record's resolution in sliding windows; False: the whole, shrunk
    # "mgca": X-rays by MGCA's draws, best epoch by the validation loss, Dice by image on the network's grid.
    # "unetr" (BTCV), "voco" (AMOS22): CTs in crops at their own resolution, measured on the voxels of the file.
    protocol: str = "ours"
    mgca: FitConfig = FitConfig(weight_decay=0.05)  # of protocol "mgca"
    siim_batch: int = 8  # of protocol "mgca" on SIIM, in place of its batch
    unetr: CropsConfig = CropsConfig()  # of protocol "unetr"
    voco: CropsConfig = VOCO  # of protocol "voco"
    steps: int = 0  # of unetr and voco, in place of the recipe's; its warm-up and validations keep their places
    trainable: rules.Rules = rules.EVERYTHING  # of tune=full: paths and what becomes of them, docs/fine_tuning.md
    masks: bool = False  # of unetr and voco: the predictions of the test cases as NIfTI on the file's voxels, in masks/

    def __post_init__(self) -> None:
        check_protocol(self.protocol, *IN_CROPS)
        check_trainable(self)

    @property
    def crops(self) -> CropsConfig:
        """The recipe of a protocol in crops, of the length asked for."""
        recipe = {"unetr": self.unetr, "voco": self.voco}[self.protocol]
        return dataclasses.replace(recipe, steps=self.steps or recipe.steps)


@dataclasses.dataclass(frozen=True)
class DetectTask:
    """How the detector is trained and measured."""

    tune: str = "frozen"  # "full": the encoder learns too; "frozen,full": both
    shares: tuple[float, ...] = (1.0,)  # of the training cases; the papers: 0.01, 0.1, 1
    limit: int = 0  # X-rays of each split; 0 = all
    most: int = 20  # the most boxes of an X-ray
    widths: tuple[int, ...] = (512, 256, 128)  # of the head, coarsest scale first
    lowest: float = 0.01  # score below which a box is not counted
    confidence: float = 0.5  # of map_mgca
    overlap: float = 0.5  # IoU of two boxes above which the weaker one is dropped
    recipe: FitConfig = FitConfig()

    def __post_init__(self) -> None:
        if len(self.widths) != 3:
            raise ValueError(f"widths is three numbers, coarsest scale first, not {self.widths}")


@dataclasses.dataclass(frozen=True)
class DetectConfig(DetectTask, DownstreamConfig):
    """Detection on X-rays with a trained encoder."""

    job: str = "detect"
    seeds: tuple[int, ...] = (0,)
    # "mgca": MGCA's loss to the letter, its draws, objectness alone as the score, best epoch by its mAP.
    protocol: str = "ours"
    trainable: rules.Rules = rules.EVERYTHING  # of tune=full: paths and what becomes of them, docs/fine_tuning.md

    def __post_init__(self) -> None:
        super().__post_init__()
        check_protocol(self.protocol)
        check_trainable(self)


@dataclasses.dataclass(frozen=True)
class CandidatesTask:
    """How candidates of nodules (LUNA16) are classified, from crops around them."""

    crop: tuple[int, ...] = (32, 64, 64)  # mm (z, y, x) around a candidate
    negatives: int = 50  # of each training CT, drawn; its nodules all train
    # Of protocol "genesis", which fine-tunes; ours is a linear probe.
    genesis: FitConfig = GENESIS

    def __post_init__(self) -> None:
        checks.axes(self, 3, "crop")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(DownstreamConfig):
    """The evaluations that a data folder allows, on one page."""

    job: str = "evaluate"
    data: str = ""  # built sets, comma-separated; empty: all sets in data_dir
    # These take minutes. Further: "candidates" (LUNA16); "segment" and "detect" train decoders for hours.
    tasks: str = "probe,retrieve,slices"
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)  # of the training cases, linear probe
    seeds: tuple[int, ...] = (0, 1, 2)
    ct_slices: bool | None = None  # CTs with their chosen slices, or by the volume alone; None: as in the run
    each: int = 200  # patients of each finding for the precision at k
    rows: int = 32  # samples of a batch on each device, when embedding
    segment: SegmentTask = SegmentTask()
    detect: DetectTask = DetectTask()
    candidates: CandidatesTask = CandidatesTask()
    prompts: str = ""  # of zero-shot: a .json or .csv, "ct_clip" or "chexzero"; empty: the set's own
    score: str = "sum"  # zero-shot: minus denials ("difference"), minus other findings ("others"), or both

    # "ours" or "mgca"; of segment also "unetr" and "voco", of candidates "genesis"; "ours,mgca" gives rows of both.
    protocol: str = "ours"

    def __post_init__(self) -> None:
        check_score(self.score)
        for name in self.protocols:
            check_protocol(name, *IN_CROPS, *OF_CANDIDATES)
        for name in ("segment", "detect"):  # whose own check would come after hours of the tasks before
            tune = getattr(self, name).tune
            if not set(tune.split(",")) <= {"frozen", "full"}:
                raise ValueError(f"config.{name}.tune is frozen, full or frozen,full, not {tune!r}")

    @property
    def protocols(self) -> tuple[str, ...]:
        """The names in `protocol`."""
        return tuple(self.protocol.split(","))


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """Presets of pre-training on the same data, with the same steps and seeds, and their table."""

    job: str = "ablate"
    data: str = "phantom"
    data_dir: str = "records"
    presets: str = ""  # presets of configs/pretrain.py, comma-separated; several for one run are joined by a plus
    seeds: tuple[int, ...] = (0, 1, 2)
    # What all share, as in --config.base.steps=300; its objective is UniMedI's and its ablations' alone.
    base: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    # What each preset changes in it, as in --config.changes.clip.objective.temperature=0.1.
    changes: dict[str, dict] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CompareConfig(AblateConfig):
    """UniMedI beside the systems it is compared with: trained alike, and their table."""

    job: str = "compare"
    seeds: tuple[int, ...] = (0,)
    # Released encoders, comma-separated, each timm:FILE or hf:FOLDER_OR_ID (docs/encoders.md); with presets empty they
    # are compared alone, on any set with labels: "hf:microsoft/rad-dino,timm:mgca.pth:mean=0.5:deviation=0.5".
    encoders: str = ""


@dataclasses.dataclass(frozen=True)
class ClaimsConfig:
    """The paper's claims on the phantom: the models that test them, trained side by side, and a verdict for each."""

    job: str = "claims"
    data_dir: str = "records"
    unimedi: str = "unimedi"  # the preset of configs/pretrain.py that stands for UniMedI
    seeds: tuple[int, ...] = (0, 1, 2)
    xrays: int = 2240  # X-rays that train, in each set
    # The sets that are trained on, by their training CTs, in this order; "phantom" is the built-in set.
    sets: str = "1120,112,56,phantom"
    plenty: int = 1120  # training CTs of the set that C2 to C4 are about
    scarce: int = 112  # training CTs of the set where C1 says that X-rays help
    equal_flops: bool = True  # train the cheaper models again, with the steps that UniMedI's arithmetic buys
    # Beside them the findings as targets, with tokens of the same size and a quarter of it: what is possible at most.
    ceilings: bool = True
    # Who is evaluated: fresh patients that validate, or with "test" those that `test_seed` draws, once for a workdir.
    split: str = "val"
    val_seed: int = 1
    test_seed: int | None = None  # a seed never used before
    patients: int = 1000  # patients of each modality who are evaluated
    both: int = 300  # further patients, examined both ways
    resamples: int = 2000  # resamples of patients and seeds
    rows: int = 32  # samples of a batch on each device, when embedding
    # What all share, as in --config.base.steps=300, and what each preset changes in it.
    base: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    changes: dict[str, dict] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CompileConfig:
    """Compiles the training step ahead of time, for TPU slices and GPUs that are not here."""

    job: str = "compile"
    target: str = "v5e-256"
    # What is compiled, as in --config.pretrain.batch.xray=48.
    pretrain: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    vocab_size: int = 28996  # words of the report tower: Bio_ClinicalBERT's
    keep_text: bool = False  # whether to write program.txt, the compiled program


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """How fast step, input, checkpoint, compile, build, decode, embed, start and search are on this machine."""

    job: str = "bench"
    what: str = "all"  # or step, input, checkpoint, compile, build, decode, embed, start, search, joined by a plus
    rounds: int = 5  # rounds of each measurement, whose median and spread are reported
    vocab_size: int = 28996
    bfloat16: bool = True  # whether the PyTorch twin is timed in bfloat16, too
    compiled: bool = False  # whether the PyTorch twin is timed with torch.compile, too
    data: str = "phantom"  # the set that "input" reads
    data_dir: str = "records"
    # Originals that build reads, and a DataLoader beside input: JPEGs of 3056 x 2544, .nii.gz of 512 x 512 x 300.
    films: int = 24
    scans: int = 2
    workers: int = 2
    pretrain: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)  # what is measured
