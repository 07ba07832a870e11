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
    name: str = ""  # the name of the set
    strict: bool = False  # whether one rejected row makes the build fail
    max_rejected: float = 0.001  # the share of rejected rows above which it fails
    dry_run: bool = False  # the doctor: examine everything, write a page about it to the workdir and no records
    report_length: int = 112  # tokens at which pre-training cuts reports; the doctor counts the longer ones
    workers: int = 0  # processes that read files; 0 = one for each core that this process may use
    worker_memory_gb: float = 2.0  # memory of each worker: a file that would take more is refused by its size
    film_size: int = 256  # pixels of both sides of an X-ray's record: a multiple of 32, at most 2048
    volume: tuple[int, int, int] = (32, 128, 128)  # voxels (z, y, x) of a CT's record, to which the scan is resampled
    # Instead: the size of a voxel (z, y, x) in mm, y and x alike, over the scan's own extent; 0: the scan's own.
    spacing_mm: tuple[float, ...] = ()
    crop_to: str = ""  # "body" or "lungs": of a CT only their box and 10 mm around it
    runner: str = "pool"  # processes on this machine; or "beam", an Apache Beam pipeline (requirements-beam.txt)
    beam: str = ""  # options of Beam, as in "--runner=FlinkRunner --flink_master=host:8081"; empty: this machine


@dataclasses.dataclass(frozen=True)
class PhantomBuild(BuildConfig):
    """The built-in phantom."""

    xrays: int = 2800
    cts: int = 1400
    seed: int = 0
    language: str = "en"  # the language of the reports; or "es"
    # The most X-rays and CTs that train, the first ones; None: all. The other splits stay as they are.
    train_xrays: int | None = None
    train_cts: int | None = None
    both: int = 0  # additional patients, for testing alone, who have an X-ray and a CT (the same `patient` in both)
    split: str = ""  # one split for all patients, such as "test"; empty: of 10, 8 train, 1 validates, 1 tests
    views: int = 1  # X-rays of each patient; 2: a lateral beside each frontal one, records with `study` and `view`
    nodules: str = "by_volume"  # where nodules lie in the lung; "by_height": equally often at each height


@dataclasses.dataclass(frozen=True)
class SourceBuild(BuildConfig):
    """What all sources with patients share."""

    source: str = ""  # the CSV, or the root of a public set
    keep_ids: bool = False  # whether patients keep the names of the source, instead of salted hashes
    salt: str = ""  # the salt of these hashes; empty: <data_dir>/.salt, made by the first build
    exact_jpeg: bool = True  # False: large JPEGs are decoded at a half to an eighth of their scale, docs/building.md


@dataclasses.dataclass(frozen=True)
class ManifestBuild(SourceBuild):
    """A CSV of your own."""

    max_rejected: float = 1.0
    uncertain: str = "ignore"  # what the label -1 becomes: unknown; "zeros": 0; "ones": 1
    language: str = ""  # "en" or "es": reports in the other language are left out, mixed ones stay
    sections: str = ""  # sections to take of a report that has them, as in "findings,impression"; empty: all of it
    assume: str = ""  # directions of the axes for a NIfTI that does not state them, such as "LPS"
    min_slices: int = 4  # the fewest slices of a CT, along its shortest axis


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """How reports become captions."""

    order: str = "impression,findings"  # the sections of a caption, in this order
    empty: str = "drop"  # a report without these sections is left out; or its "last_paragraph", or the "whole"
    blanks: str = "keep"  # whether ___ and XXXX stay; or "remove"
    style: str = "plain"  # "plain": as written; "mgca": words alone, lower case, ASCII
    longest: int = 0  # the most words; longer ones lose whole sentences, the impression's last; 0 = any
    language: str = ""  # the language of the captions, "en" or "es"; empty: any
    foreign: str = "error"  # reports in another language are rejected; or "keep" them, or "translate"
    translations: str = ""  # a CSV of translations, with the columns report_id and english
    translator: str = ""  # a Marian model that translates: folder or hub id, such as Helsinki-NLP/opus-mt-es-en
    back_translator: str = ""  # a model that translates back, to compare with the original
    drop_doubtful: bool = False  # whether reports whose translation fails a check are left out


@dataclasses.dataclass(frozen=True)
class ImageBuild(SourceBuild):
    """A public set without reports."""

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
