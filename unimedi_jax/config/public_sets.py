"""Options of the public sets: `config.options` of configs/build.py:<set>, what they mean in data/README.md."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """A set without options."""


@dataclasses.dataclass(frozen=True)
class MimicCxr:
    """Of MIMIC-CXR."""

    reports: str = ""  # folder that holds files/p10/.../s5....txt, or mimic_cxr_sectioned.csv; empty: the source
    views: str = "PA,AP"
    split: str = "official"  # "mgca": validate and test are one
    labeler: str = "chexpert"  # "negbio"; empty: no labels
    uncertain: str = "ignore"  # the label -1 becomes unknown; or "zeros", "ones"
    blank: str = "unknown"  # what is not mentioned; "negative": absent, as retrieval by finding needs it


@dataclasses.dataclass(frozen=True)
class BimcvCovid19:
    """Of BIMCV-COVID19."""

    modality: str = "ct"  # "xray", "ct,xray"
    labels: str = ""  # names of findings to keep
    series: str = "all"  # of a session: also "first", "largest", one of each modality


@dataclasses.dataclass(frozen=True)
class CtRate:
    """Of CT-RATE."""

    reconstructions: str = "all"  # "first": one series a scan
    val_share: float = 0.02  # of the training patients


@dataclasses.dataclass(frozen=True)
class OpenI:
    """Of Open-i (Indiana)."""

    views: str = "frontal"  # "unknown" for NLM's XML
    labels: str = ""  # MeSH terms to keep


@dataclasses.dataclass(frozen=True)
class CheXpert:
    """Of CheXpert."""

    part: str = "main"  # or "5x200", to evaluate on
    split: str = "clean"  # or "mgca"
    views: str = "Frontal"
    uncertain: str = "mgca"  # blank 0, -1 by task; or "ignore", "zeros", "ones"
    each: int = 200  # X-rays a task of 5x200
    val: int = 5000  # X-rays of mgca's val


@dataclasses.dataclass(frozen=True)
class Rsna:
    """Of RSNA Pneumonia."""

    split: str = "detection"  # and segmentation; or "classification"
    greys: str = "window"  # or "largest": stored values over their largest, as MGCA reads DICOM


@dataclasses.dataclass(frozen=True)
class Covidx:
    """Of COVIDx CXR."""

    version: str = "9A"  # "9B" and "CXR-4" have two classes
    split: str = "clean"  # or "mgca"


@dataclasses.dataclass(frozen=True)
class Siim:
    """Of SIIM-ACR Pneumothorax."""

    split: str = "clean"  # or "mgca"
    greys: str = "window"  # or "largest": stored values over their largest, as MGCA reads DICOM


@dataclasses.dataclass(frozen=True)
class CcCcii:
    """Of CC-CCII."""

    lists: str = ""  # folder of HKBU's ct_train.json, ct_test.json, or of VoCo's CC_CCII_fold0_train.csv, ..._valid.csv
    fold: int = 0  # of VoCo's lists
    first_slice: str = "superior"  # or "inferior"


@dataclasses.dataclass(frozen=True)
class Ricord:
    """Of RICORD."""

    lists: str = ""  # folder of UniMiSS's train.txt, val.txt, test.txt


@dataclasses.dataclass(frozen=True)
class Luna16:
    """Of LUNA16."""

    test: int = 0  # the subset for testing
    val: int = 1  # and the one for validation
    smallest_mm: float = 0.0  # nodules of at most so many mm are left out
    candidates: bool = False  # the places of candidates_V2.csv too, for FROC; build with config.spacing_mm=1,1,1


@dataclasses.dataclass(frozen=True)
class CheXpertPlus:
    """Of CheXpert Plus."""

    views: str = "Frontal"
    labeler: str = "report"  # what CheXbert read; also "findings", "impression"; empty: no labels
    uncertain: str = "ignore"  # the label -1 becomes unknown; or "zeros", "ones"
    blank: str = "unknown"  # what is not mentioned; "negative": absent
    lists: str = ""  # a CSV with Path and the five tasks, such as chexpert_5x200.csv: these X-rays alone, to test on
    val_share: float = 0.02  # of the training patients


@dataclasses.dataclass(frozen=True)
class ReXGradient:
    """Of ReXGradient-160K."""

    views: str = "PA,AP"


@dataclasses.dataclass(frozen=True)
class PadChest:
    """Of PadChest."""

    views: str = "PA,AP,AP_horizontal"  # projections; also "L", "COSTAL"
    labels: str = ""  # names of findings to keep
    children: bool = False  # take their films, too


@dataclasses.dataclass(frozen=True)
class NihChestXray14:
    """Of NIH ChestX-ray14."""

    views: str = "PA,AP"
    val_share: float = 0.1  # of the patients of train_val_list.txt


@dataclasses.dataclass(frozen=True)
class VinDrCxr:
    """Of VinDr-CXR."""

    vote: str = "majority"  # of a training film's three readers; or "any", "all"
    val_share: float = 0.1  # of the training films


@dataclasses.dataclass(frozen=True)
class Luna25:
    """Of LUNA25."""

    diameter_mm: float = 0.0  # of the balls that mark nodules, whose size the table lacks; 0: no mask


@dataclasses.dataclass(frozen=True)
class MedMnist3d:
    """Of MedMNIST's 3D sets."""

    part: str = "organmnist3d"  # or nodulemnist3d, adrenalmnist3d, fracturemnist3d, vesselmnist3d, synapsemnist3d
    size: int = 28  # voxels a side; or 64


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
