"""Settings of the build job: `config` of configs/build.py, field for field. The public sets: data/README.md."""

import dataclasses
from typing import Any

from unimedi_jax.config.public_sets import OPTIONS


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
    worker_memory_gb: float = 2.0  # of each of them: a file that would take more is refused by its size
    film_size: int = 256  # pixels of both sides of an X-ray's record: a multiple of 32, at most 2048
    volume: tuple[int, int, int] = (32, 128, 128)  # voxels (z, y, x) of a CT's record, onto which the scan is brought
    # (z, y, x), y and x alike: instead, such voxels over the scan's own extent; 0: of the scan's own size.
    spacing_mm: tuple[float, ...] = ()
    crop_to: str = ""  # "body" or "lungs": of a CT only the box around these, and 10 mm beside
    runner: str = "pool"  # of these processes; or "beam", an Apache Beam pipeline (requirements-beam.txt)
    beam: str = ""  # its options, such as "--runner=FlinkRunner --flink_master=host:8081"; empty: on this machine


@dataclasses.dataclass(frozen=True)
class PhantomBuild(BuildConfig):
    """The embedded phantom."""

    xrays: int = 2800
    cts: int = 1400
    seed: int = 0
    language: str = "en"  # of the reports, or "es"
    # Of the X-rays and CTs that would train at most so many, the first ones; the other splits stay as they are.
    train_xrays: int | None = None
    train_cts: int | None = None
    both: int = 0  # patients with an X-ray and a CT (one `patient` in both records), for testing alone, beside these
    split: str = ""  # the split of all patients, such as "test"; empty: 8 of 10 train, 1 validates, 1 tests
    views: int = 1  # of an X-ray's patient; 2: a lateral film beside each frontal one, records with `study` and `view`
    nodules: str = "by_volume"  # where they lie in the lung; "by_height": as often in each depth layer that has room


@dataclasses.dataclass(frozen=True)
class SourceBuild(BuildConfig):
    """What all sources with patients share."""

    source: str = ""  # the CSV, or the root of a public set
    keep_ids: bool = False  # store patients as the source names them, not as salted hashes
    salt: str = ""  # of these hashes; empty: <data_dir>/.salt, made by the first build
    exact_jpeg: bool = True  # or large JPEGs are decoded at a half to an eighth of their scale: docs/building.md


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
