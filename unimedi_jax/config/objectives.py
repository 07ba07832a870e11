"""Settings of every objective: `config.objective`, field for field. `unimedi_jax.objectives` derives from them."""

import dataclasses

from unimedi_jax.config import checks


@dataclasses.dataclass(frozen=True)
class Views:
    """How random views of an image are drawn; shared by all objectives that compare views."""

    name: str = ""  # each objective's own
    crop_scale: tuple[float, float] = (0.4, 1.0)  # share of the area or of the volume that a crop covers
    crop_aspect: float = 4 / 3  # the most by which one side is stretched against another
    brightness: float = 0.2  # the most that is added to grey values in [-1, 1]
    contrast: float = 0.4  # the most by which the factor of the contrast leaves 1
    noise: float = 0.02  # standard deviation

    def __post_init__(self) -> None:
        checks.shares(self, "crop_scale")
        checks.at_least(self, 1, "crop_aspect")
        checks.below_one(self, "brightness", "contrast", "noise")


@dataclasses.dataclass(frozen=True)
class UniMedI(Views):
    """UniMedI: image-report contrast, self-distillation on CLS and on patches, and what the student sees.

    The settings of views have an effect only with `two_views`.
    """

    name: str = "unimedi"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    weight_vl: float = 1.0  # weight of L_vl, the image-report contrast
    weight_icl: float = 1.0  # weight of L_icl, self-distillation on CLS
    weight_pcl: float = 1.0  # weight of L_pcl, self-distillation on patches
    temperature: float = 0.07  # temperature of the image-report contrast
    negatives: str = "all"  # all samples of the batch; or "modality": those of the sample's own
    identical_reports: bool = False  # whether word-for-word equal reports are positives of each other
    contrastive_chunk: int = 0  # rows of the similarities at a time, for global batches of many thousands; 0 = all
    soft_targets: float = 0.0  # share of L_vl's targets that follows the similarity of the reports
    soft_temperature: float = 0.07  # temperature of that similarity: the smaller, the closer a report has to be
    # Each report is read as two halves of its sentences, dealt anew every time: both belong to the image, and with
    # `weight_reports` to each other. What findings and impression say in other words teaches the report tower.
    report_halves: bool = False
    weight_reports: float = 0.5  # weight of the contrast between the halves
    negation: bool = False  # the report with its findings turned into their opposite is one more negative of its image
    weight_local: float = 0.0  # weight of the contrast of sentences and patches
    sentences: int = 8  # runs of tokens that stand for a report's sentences there
    local_temperature: float = 0.07  # temperature of a sentence's attention over the patches, and of the contrast
    local_chunk: int = 8  # reports whose attention over all images exists at a time: memory for time
    student_temperature: float = 0.1  # of the softmax over prototypes
    teacher_temperature_cls: tuple[float, float] = (0.04, 0.04)  # start and end of the warm-up
    teacher_temperature_patch: tuple[float, float] = (0.04, 0.07)
    temperature_warmup_steps: int = 0  # steps of the warm-up of the teacher's temperatures
    centre_momentum: float = 0.9  # momentum of the running mean of the teacher's outputs, which is subtracted
    centre_by_modality: bool = False  # X-rays and CTs each centred on their own mean, not on that of the mixed batch
    centring: str = "mean"  # or "sinkhorn": a modality's samples use all prototypes alike, and there is no centre
    sinkhorn_iterations: int = 3
    weight_koleo: float = 0.0  # weight of KoLeo, which spreads the CLS of a modality's samples (DINOv2: 0.1)
    head_norm: bool = False  # whether DINO's heads have BatchNorm
    distillation_ramp_steps: int = 0  # steps in which the weights of L_icl and L_pcl grow from 0; 0 = none
    two_views: bool = False  # the student sees a random part of what the teacher sees, in another light
    mask_ratio: float = 0.5  # share of the tokens that the student does not see
    mask_ramp_steps: int = 0  # steps in which that share grows from 0; 0 = none
    mask_stages: int = 4  # equal stages of that growth, each compiled as a branch of its own
    mask_mode: str = "drop"  # "drop" removes tokens, "mask_token" replaces them and distils there (iBOT)
    mask_by: str = "attention"  # "attention" keeps the informative tokens, "random" any
    mask_scope: str = "sequence"  # "sequence", or "part": slices and volume keep their own share
    mask_block: int = 1  # 2 keeps 2 x 2 blocks of an X-ray's tokens (A-CLIP)
    slices_by: str = "attention"  # "attention" (eq. 2) or "random"
    random_until_step: int = 0  # before this step both choices are random: early attention means nothing yet

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(
            self,
            negatives=("all", "modality"),
            centring=("mean", "sinkhorn"),
            mask_mode=("drop", "mask_token"),
            mask_by=("attention", "random"),
            mask_scope=("sequence", "part"),
            slices_by=("attention", "random"),
        )
        checks.below_one(self, "mask_ratio", "soft_targets", "centre_momentum")
        checks.above_zero(self, "temperature", "soft_temperature", "local_temperature", "student_temperature")
        checks.ends(self, "teacher_temperature_cls", "teacher_temperature_patch")
        checks.at_least(
            self, 0, "weight_local", "weight_reports", "weight_koleo", "distillation_ramp_steps", "mask_ramp_steps"
        )
        checks.at_least(self, 1, "sentences", "local_chunk", "sinkhorn_iterations", "mask_block")
        checks.at_least(self, 2, "mask_stages")

    @property
    def compares_within_modality(self) -> bool:
        """Whether a modality's samples are compared with each other alone, so that chunks divide them."""
        return self.negatives == "modality" or self.weight_koleo > 0

    @property
    def needs_whole_batch(self) -> tuple[str, ...]:
        """Settings whose losses no part of a batch has by itself."""
        return tuple(
            text
            for on, text in (
                (self.centring == "sinkhorn" and self.distils, "centring=sinkhorn"),
                (self.head_norm and self.distils, "head_norm=True"),
            )
            if on
        )

    @property
    def distils(self) -> bool:
        """Whether the student learns from the teacher's outputs."""
        return bool(self.weight_icl or self.weight_pcl)

    @property
    def scores_tokens(self) -> bool:
        """Whether the teacher's attention chooses the tokens that the student sees."""
        return self.mask_ratio > 0 and self.mask_by == "attention"

    def scores_slices(self, slices: int) -> bool:
        """Whether the teacher's attention over a volume chooses the depth layers of its `slices` slices."""
        return slices > 0 and self.slices_by == "attention"


@dataclasses.dataclass(frozen=True)
class Contrast:
    """ConVIRT and CLIP: image against report."""

    name: str = "contrast"
    temperature: float = 0.07  # where it starts, if it is learnt
    learn_temperature: bool = False
    image_weight: float = 0.5  # of image to report; the rest is of report to image

    def __post_init__(self) -> None:
        checks.above_zero(self, "temperature")


@dataclasses.dataclass(frozen=True)
class SigLIP:
    """SigLIP: every pair of image and report judged by itself."""

    name: str = "siglip"
    scale: float = 10.0  # t at the start
    bias: float = -10.0  # b at the start
    contrastive_chunk: int = 0  # rows of the similarities that exist at a time; 0 = all

    def __post_init__(self) -> None:
        checks.above_zero(self, "scale")
        checks.at_least(self, 0, "contrastive_chunk")


@dataclasses.dataclass(frozen=True)
class GLoRIA:
    """GLoRIA: global contrast (vl), and local contrast of words and image regions."""

    name: str = "gloria"
    weight_vl: float = 1.0
    weight_local: float = 1.0
    temp1: float = 4.0  # sharpens a word's attention over the regions; these three are factors, not divisors
    temp2: float = 5.0  # how far the best matching words count for a report's similarity
    temp3: float = 10.0  # of both contrasts
    local_chunk: int = 8  # reports whose attention over all images exists at a time: memory for time

    def __post_init__(self) -> None:
        checks.above_zero(self, "temp1", "temp2", "temp3")
        checks.at_least(self, 1, "local_chunk")


@dataclasses.dataclass(frozen=True)
class MGCA:
    """MGCA: alignment of wholes (vl), of tokens (cta) and of prototypes (cpa)."""

    name: str = "mgca"
    weight_vl: float = 1.0  # the paper's lambda 1 to 3
    weight_cta: float = 1.0
    weight_cpa: float = 1.0
    temperature: float = 0.07
    local_temperature: float = 0.1  # of the attention and of the contrast between tokens
    prototype_temperature: float = 0.2
    prototypes: int = 500
    epsilon: float = 0.05  # of Sinkhorn: the smaller, the harder the assignments
    sinkhorn_iterations: int = 3

    def __post_init__(self) -> None:
        checks.above_zero(self, "temperature", "local_temperature", "prototype_temperature", "epsilon")
        checks.at_least(self, 1, "prototypes", "sinkhorn_iterations")


@dataclasses.dataclass(frozen=True)
class SelfDistillation(Views):
    """Views and self-distillation on CLS, which DINO and UniMiSS share."""

    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.04)  # start and end of the warm-up
    temperature_warmup_steps: int = 0
    centre_momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above_zero(self, "student_temperature")
        checks.ends(self, "teacher_temperature")
        checks.below_one(self, "centre_momentum")


@dataclasses.dataclass(frozen=True)
class DINO(SelfDistillation):
    """DINO: small and large views against the teacher's large ones."""

    name: str = "dino"
    local_crops: int = 2  # small views of a sample, beside the two large ones
    local_scale: tuple[float, float] = (0.05, 0.4)  # share of the area or of the volume that they cover
    local_size: float = 3 / 7  # their sides, as a share of the whole, in whole patches: 96 of 224 pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.shares(self, "local_scale")
        checks.up_to_one(self, "local_size")
        checks.at_least(self, 0, "local_crops")


@dataclasses.dataclass(frozen=True)
class UniMiSS(SelfDistillation):
    """UniMiSS: X-rays, volumes, and volumes with their slices."""

    name: str = "unimiss"
    crop_scale: tuple[float, float] = (0.14, 1.0)
    slices: int = 4  # of each view of a volume
    weight_slices: float = 1.0  # of each of the three terms with slices

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "slices")
        checks.at_least(self, 0, "weight_slices")


@dataclasses.dataclass(frozen=True)
class MoCoV3(Views):
    """MoCo v3: two views of an image find each other within a modality."""

    name: str = "mocov3"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above_zero(self, "temperature")


@dataclasses.dataclass(frozen=True)
class ACLIP(Views):
    """A-CLIP: image-report contrast of two masked views (vl), SimCLR and BYOL between them."""

    name: str = "aclip"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    temperature: float = 0.07  # of the image-report contrast; where it starts, if it is learnt
    learn_temperature: bool = True
    simclr_temperature: float = 0.1
    weight_vl: float = 1.0  # half of it for each view
    weight_simclr: float = 1.0
    weight_byol: float = 2.0
    mask_ratio: float = 0.5  # share of a view's tokens that the student does not see
    mask_block: int = 1  # 2: the paper's 2 x 2 blocks on X-rays, where they divide the grid

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.below_one(self, "mask_ratio")
        checks.above_zero(self, "temperature", "simclr_temperature")
        checks.at_least(self, 1, "mask_block")


@dataclasses.dataclass(frozen=True)
class Joint(Views):
    """Joint image-volume learning: clusters in 2D (intra), of slices and volume (inter), and hidden slices."""

    name: str = "joint"
    crop_scale: tuple[float, float] = (0.14, 1.0)
    prototypes: int = 512  # of each of the two sets
    temperature: float = 0.1
    epsilon: float = 0.05  # of Sinkhorn: the smaller, the harder the assignments
    iterations: int = 3  # of Sinkhorn
    slices: int = 4  # of a volume
    hidden_slices: int = 1  # of them, hidden from the transformer
    layers: int = 4  # of the transformer over slices
    weight_intra: float = 1.0
    weight_inter: float = 1.0
    weight_hidden: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hidden_slices < self.slices:
            raise ValueError(f"hidden_slices must be above 0 and below slices={self.slices}, not {self.hidden_slices}")
        checks.above_zero(self, "temperature", "epsilon")
        checks.at_least(self, 1, "prototypes", "iterations", "layers")


@dataclasses.dataclass(frozen=True)
class SimMIM:
    """SimMIM: the pixels of patches hidden behind a mask token."""

    name: str = "simmim"
    mask_ratio: float = 0.6  # share of the blocks that is hidden
    block: int = 2  # tokens along each axis that are hidden together, where the grid divides

    def __post_init__(self) -> None:
        checks.between_zero_and_one(self, "mask_ratio")
        checks.at_least(self, 1, "block")


@dataclasses.dataclass(frozen=True)
class MAE:
    """MAE: the pixels of dropped patches, restored by a light decoder."""

    name: str = "mae"
    mask_ratio: float = 0.75  # share of the tokens that is dropped
    norm_pix: bool = True  # each patch's pixels less their mean, over their standard deviation
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        checks.between_zero_and_one(self, "mask_ratio")
        checks.at_least(self, 1, "decoder_width", "decoder_depth", "decoder_heads")
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width={self.decoder_width} is not divisible by decoder_heads={self.decoder_heads}"
            )


@dataclasses.dataclass(frozen=True)
class MRM(MAE):
    """MRM: MAE's dropped patches (mim), and masked words read beside the image (mlm)."""

    name: str = "mrm"
    decoder_width: int = 768
    decoder_depth: int = 4
    decoder_heads: int = 6
    word_ratio: float = 0.5  # share of a report's words that is masked
    weight_mim: float = 1.0
    weight_mlm: float = 1.0
    # Ids of [MASK] and of [PAD], [CLS], [SEP], which are never masked, in the vocabularies that the sets are built
    # with; Bio_ClinicalBERT's are 103 and (0, 101, 102).
    mask_id: int = 4
    special_ids: tuple[int, ...] = (0, 2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.between_zero_and_one(self, "word_ratio")
        if self.mask_id in self.special_ids:
            raise ValueError(f"mask_id={self.mask_id} is one of special_ids={tuple(self.special_ids)}")


@dataclasses.dataclass(frozen=True)
class PRIOR:
    """PRIOR: global and local alignment, a memory of sentence prototypes, and conditional reconstruction."""

    name: str = "prior"
    temperature: float = 0.01  # where both of them start: global and within a report
    sentences: int = 16  # runs of tokens that stand for a report's sentences; queries of the decoder
    prototypes: int = 512
    memory_temperature: float = 0.9  # of the Gumbel softmax
    channel_dropout: float = 0.5  # of the regions that pixels are rebuilt from
    depth: int = 8  # of the decoder of prototypes
    attention_heads: int = 12
    memory_from: int = 0  # step from which prototypes take the place of sentences; the authors: after 20 of 150 epochs
    reconstruct_from: int = 0  # step from which the reconstruction counts; the authors: after 50
    weight_vl: float = 10.0
    weight_region: float = 1.0
    weight_sentence: float = 1.0
    weight_memory: float = 10.0
    weight_pixels: float = 1.0
    weight_generated: float = 10.0
    weight_shares: float = 1.0

    def __post_init__(self) -> None:
        checks.above_zero(self, "temperature", "memory_temperature")
        checks.below_one(self, "channel_dropout")
        checks.at_least(self, 1, "sentences", "prototypes", "depth", "attention_heads")
        if self.reconstruct_from < self.memory_from:
            raise ValueError("reconstruct_from must be at least memory_from: tokens are generated from the memory")


@dataclasses.dataclass(frozen=True)
class MedKLIP:
    """MedKLIP: entities as queries to the image, for their presence and for what the report says of them (mention)."""

    name: str = "medklip"
    entities: int = 75  # queries a step
    depth: int = 4  # of the decoder
    attention_heads: int = 4
    temperature: float = 0.07  # of the contrast between mentions
    weight_presence: float = 1.0
    weight_mention: float = 1.0

    def __post_init__(self) -> None:
        checks.above_zero(self, "temperature")
        checks.at_least(self, 1, "entities", "depth", "attention_heads")


@dataclasses.dataclass(frozen=True)
class KAD:
    """KAD: image against report (vl), and a query network on the image and on the report."""

    name: str = "kad"
    entities: int = 40  # queries a step
    depth: int = 4  # of the decoder
    attention_heads: int = 4
    temperature: float = 0.07
    weight_vl: float = 1.0
    weight_image: float = 1.0  # of the query network on the image
    weight_report: float = 1.0  # and on the report

    def __post_init__(self) -> None:
        checks.above_zero(self, "temperature")
        checks.at_least(self, 1, "entities", "depth", "attention_heads")


@dataclasses.dataclass(frozen=True)
class MedUniC:
    """Med-UniC: image against report (vl) and against its crop (vv); L_tf (feature) and L_ti (instance) of reports."""

    name: str = "med_unic"
    temperature: float = 0.07
    crop: float = 0.75  # side of an image's second view, as a share
    hidden: int = 2048  # widths of the projection of L_ctr
    features: int = 512
    off_diagonal: float = 0.0051  # of Barlow Twins
    weight_vl: float = 1.0
    weight_vv: float = 1.0
    weight_feature: float = 0.25
    weight_instance: float = 0.005

    def __post_init__(self) -> None:
        checks.up_to_one(self, "crop")
        checks.above_zero(self, "temperature")
        checks.at_least(self, 1, "hidden", "features")


@dataclasses.dataclass(frozen=True)
class Supervised:
    """The findings themselves as targets, no reports: what pre-training could reach at most."""

    name: str = "supervised"
    labels: int = 5  # of the sets that are trained on; the phantom's

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "labels")


_WITH_REPORTS = (UniMedI, Contrast, SigLIP, GLoRIA, MGCA, ACLIP, MRM, PRIOR, MedKLIP, KAD, MedUniC)
_IMAGES_ALONE = (UniMiSS, Joint, DINO, MoCoV3, SimMIM, MAE, Supervised)
OBJECTIVES: dict[str, type] = {settings.name: settings for settings in (*_WITH_REPORTS, *_IMAGES_ALONE)}
