"""Settings of the build job: `config` of configs/build.py, field for field. The public sets: data/README.md."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """What every source shares."""

    job: str = "build"
    kind: str = ""  # the source, as in configs/build.py:manifest
    data_dir: str = "records"
    name: str = ""  # of the set
    strict: bool = False  # a rejected row makes the build fail
    max_rejected: float = 0.001  # the share of rejected rows above which it fails
    dry_run: bool = False  # the doctor: examine everything, write a page about it to the workdir and no records
    report_length: int = 112  # tokens, as pre-training cuts reports: the doctor counts longer ones
    workers: int = 0  # processes that read files; 0 = one for each core that this one may use
    runner: str = "pool"  # of these processes; or "beam", an Apache Beam pipeline (requirements-beam.txt)
    beam: str = ""  # its options, such as "--runner=FlinkRunner --flink_master=host:8081"; empty: on this machine


@dataclasses.dataclass(frozen=True)
class PhantomBuild(BuildConfig):
    """The embedded phantom."""

    xrays: int = 2800
    cts: int = 1400
    seed: int = 0
    language: str = "en"  # of the reports, or "es"


@dataclasses.dataclass(frozen=True)
class SourceBuild(BuildConfig):
    """What all sources with patients share."""

    source: str = ""  # the CSV, or the root of a public set
    keep_ids: bool = False  # store patients as the source names them, not as salted hashes
    salt: str = ""  # of these hashes; empty: <data_dir>/.salt, made by the first build


@dataclasses.dataclass(frozen=True)
class ManifestBuild(SourceBuild):
    """A CSV of one's own."""

    max_rejected: float = 1.0
    uncertain: str = "ignore"  # the label -1 becomes unknown; or "zeros", "ones"
    language: str = ""  # "en" or "es": reports of the other language are left out; mixed ones stay
    sections: str = ""  # "findings,impression": these of a report that has them; empty: all of it
    assume: str = ""  # directions of the axes of a NIfTI that does not state them, such as "LPS"
    min_slices: int = 4  # of a CT, along the axis with the fewest


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """How reports become captions."""

    order: str = "impression,findings"
    empty: str = "drop"  # a report with neither: also "last_paragraph" or "whole"
    blanks: str = "keep"  # "remove": ___ and XXXX go
    style: str = "plain"  # "mgca": words alone, lower case, ASCII
    longest: int = 0  # words; whole sentences go, the impression's last; 0 = any
    language: str = ""  # "en" or "es": that of the captions; empty: any
    foreign: str = "error"  # reports in another language are rejected; or "keep", "translate"
    translations: str = ""  # CSV with the columns report_id and english
    translator: str = ""  # a Marian model, folder or hub id, such as Helsinki-NLP/opus-mt-es-en
    back_translator: str = ""  # another one back, to compare with the original
    drop_doubtful: bool = False  # leave out reports whose translation fails a check


@dataclasses.dataclass(frozen=True)
class ImageBuild(SourceBuild):
    """A public set without reports; its options are one of OPTIONS."""

    options: Any = None


@dataclasses.dataclass(frozen=True)
class ReportedBuild(ImageBuild):
    """A public set with reports."""

    report: ReportConfig = ReportConfig()


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


@dataclasses.dataclass(frozen=True)
class Covidx:
    """Of COVIDx CXR."""

    version: str = "9A"  # "9B" and "CXR-4" have two classes
    split: str = "clean"  # or "mgca"


@dataclasses.dataclass(frozen=True)
class Siim:
    """Of SIIM-ACR Pneumothorax."""

    split: str = "clean"  # or "mgca"


@dataclasses.dataclass(frozen=True)
class CcCcii:
    """Of CC-CCII."""

    lists: str = ""  # folder of ct_train.json, ct_test.json
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


@dataclasses.dataclass(frozen=True)
class CheXpertPlus:
    """Of CheXpert Plus."""

    views: str = "Frontal"
    labeler: str = "report"  # what CheXbert read; also "findings", "impression"; empty: no labels
    uncertain: str = "ignore"  # the label -1 becomes unknown; or "zeros", "ones"
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
REPORTS = {
    "mimic_cxr": ReportConfig(style="mgca", language="en"),
    "bimcv_covid19": ReportConfig(language="es"),
    "ct_rate": ReportConfig(language="en"),
    "open_i": ReportConfig(language="en"),
    "chexpert_plus": ReportConfig(language="en"),
    "rexgradient": ReportConfig(language="en"),
    "padchest": ReportConfig(language="es"),
}
SOURCES = ("manifest", "phantom", *OPTIONS)


def build_config(source: str) -> BuildConfig:
    """The settings of one source.

    Raises:
        ValueError: there is no such source.
    """
    if source not in SOURCES:
        raise ValueError(f"configs/build.py:{source} has no source named '{source}': give one of {', '.join(SOURCES)}")
    own = {"manifest": ManifestBuild, "phantom": PhantomBuild}
    if source in own:
        return own[source](kind=source, name=source)
    common = {"kind": source, "name": source, "options": OPTIONS[source]}
    return ReportedBuild(**common, report=REPORTS[source]) if source in REPORTS else ImageBuild(**common)
