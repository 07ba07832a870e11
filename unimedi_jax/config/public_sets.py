"""Options of the public sets: `config.options` of configs/build.py:<set>. docs/{pretraining,evaluation}_sets.md."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """A set without options."""


@dataclasses.dataclass(frozen=True)
class MimicCxr:
    """MIMIC-CXR."""

    reports: str = ""  # the folder of files/p10/.../s5....txt, or mimic_cxr_sectioned.csv; empty: config.source
    views: str = "PA,AP"  # the projections that are taken
    split: str = "official"  # or "mgca": validate and test are one split, val
    labeler: str = "chexpert"  # whose labels; or "negbio"; empty: no labels
    uncertain: str = "ignore"  # what the label -1 becomes: unknown; "zeros": 0; "ones": 1
    blank: str = "unknown"  # a label that is not mentioned; or "negative": absent, as retrieval by finding needs it


@dataclasses.dataclass(frozen=True)
class BimcvCovid19:
    """BIMCV-COVID19."""

    modality: str = "ct"  # or "xray", or "ct,xray"
    labels: str = ""  # the findings to store, comma-separated
    series: str = "all"  # of a session; or one of each modality, the "first" by name or the "largest"


@dataclasses.dataclass(frozen=True)
class CtRate:
    """CT-RATE."""

    reconstructions: str = "all"  # of a scan; or the "first" alone
    val_share: float = 0.02  # the share of the training patients that validates


@dataclasses.dataclass(frozen=True)
class OpenI:
    """Open-i (Indiana)."""

    views: str = "frontal"  # the projections that are taken; "unknown" for NLM's XML
    labels: str = ""  # the MeSH terms to store, comma-separated


@dataclasses.dataclass(frozen=True)
class CheXpert:
    """CheXpert."""

    part: str = "main"  # or "5x200", to evaluate on
    split: str = "clean"  # no patient in two splits; or "mgca": as its code draws them
    views: str = "Frontal"  # the projections that are taken
    uncertain: str = "mgca"  # blank is 0, and -1 is 0 or 1 by task; or "ignore", "zeros", "ones"
    each: int = 200  # X-rays of each task of 5x200
    val: int = 5000  # X-rays that validate, with split "mgca"


@dataclasses.dataclass(frozen=True)
class Rsna:
    """RSNA Pneumonia."""

    split: str = "detection"  # MGCA's, also for segmentation; or "classification"
    greys: str = "window"  # or "largest": stored values over their largest, as MGCA reads DICOM


@dataclasses.dataclass(frozen=True)
class Covidx:
    """COVIDx CXR."""

    version: str = "9A"  # or "9B" or "CXR-4", which have two classes
    split: str = "clean"  # no patient in two splits; or "mgca": as its code draws them


@dataclasses.dataclass(frozen=True)
class Siim:
    """SIIM-ACR Pneumothorax."""

    split: str = "clean"  # by study; or "mgca": as its code draws them
    greys: str = "window"  # or "largest": stored values over their largest, as MGCA reads DICOM


@dataclasses.dataclass(frozen=True)
class CcCcii:
    """CC-CCII."""

    # The folder of HKBU's ct_train.json and ct_test.json, or of VoCo's CC_CCII_fold0_train.csv and ..._valid.csv.
    # Empty: split by patient.
    lists: str = ""
    fold: int = 0  # of VoCo's lists
    first_slice: str = "superior"  # the end at which a scan starts; or "inferior"


@dataclasses.dataclass(frozen=True)
class Ricord:
    """RICORD."""

    lists: str = ""  # the folder of UniMiSS's train.txt, val.txt and test.txt; empty: split by patient


@dataclasses.dataclass(frozen=True)
class Luna16:
    """LUNA16."""

    test: int = 0  # the subset that tests
    val: int = 1  # the subset that validates
    smallest_mm: float = 0.0  # nodules of at most this diameter in mm are left out
    candidates: bool = False  # also the places of candidates_V2.csv, for FROC; build with config.spacing_mm=1,1,1
    split: str = "subsets"  # by test and val; or "genesis": 0 to 4 train, 5 and 6 validate, 7 to 9 test


@dataclasses.dataclass(frozen=True)
class CheXpertPlus:
    """CheXpert Plus."""

    views: str = "Frontal"  # the projections that are taken
    labeler: str = "report"  # the text that CheXbert labelled; or "findings", "impression"; empty: no labels
    uncertain: str = "ignore"  # what the label -1 becomes: unknown; "zeros": 0; "ones": 1
    blank: str = "unknown"  # a label that is not mentioned; or "negative": absent
    lists: str = ""  # a CSV with Path and the five tasks, as chexpert_5x200.csv: these X-rays alone, all to test on
    val_share: float = 0.02  # the share of the training patients that validates


@dataclasses.dataclass(frozen=True)
class ReXGradient:
    """ReXGradient-160K."""

    views: str = "PA,AP"  # the projections that are taken


@dataclasses.dataclass(frozen=True)
class PadChest:
    """PadChest."""

    views: str = "PA,AP,AP_horizontal"  # projections; also "L", "COSTAL"
    labels: str = ""  # the findings to store, comma-separated
    children: bool = False  # whether children's X-rays are taken, too


@dataclasses.dataclass(frozen=True)
class NihChestXray14:
    """NIH ChestX-ray14."""

    views: str = "PA,AP"  # the projections that are taken
    val_share: float = 0.1  # the share of the patients of train_val_list.txt that validates


@dataclasses.dataclass(frozen=True)
class VinDrCxr:
    """VinDr-CXR."""

    vote: str = "majority"  # how many of an X-ray's three readers a training label needs; or "any", "all"
    val_share: float = 0.1  # the share of the training X-rays that validates


@dataclasses.dataclass(frozen=True)
class Luna25:
    """LUNA25."""

    diameter_mm: float = 0.0  # diameter of the balls that mark nodules, whose size the table lacks; 0: no mask


@dataclasses.dataclass(frozen=True)
class MedMnist3d:
    """MedMNIST's 3D sets."""

    part: str = "organmnist3d"  # or nodulemnist3d, adrenalmnist3d, fracturemnist3d, vesselmnist3d, synapsemnist3d
    size: int = 28  # voxels along each side; or 64


OPTIONS: dict[str, Any] = {
    "mimic_cxr": MimicCxr(),
    "bimcv_covid19": BimcvCovid19(),
    "ct_rate": CtRate(),
    "open_i": OpenI(),
    "chexpert": CheXpert(),
    "rsna": Rsna(),
    "covidx": Covidx(),
    "siim": Siim(),
    "object_cxr": NoOptions(),
    "cc_ccii": CcCcii(),
    "ricord": Ricord(),
    "luna16": Luna16(),
    "btcv": NoOptions(),
    "amos22": NoOptions(),
    "chexpert_plus": CheXpertPlus(),
    "rexgradient": ReXGradient(),
    "padchest": PadChest(),
    "nih_chestxray14": NihChestXray14(),
    "vindr_cxr": VinDrCxr(),
    "luna25": Luna25(),
    "flare22": NoOptions(),
    "rad_chestct": NoOptions(),
    "medmnist3d": MedMnist3d(),
}
