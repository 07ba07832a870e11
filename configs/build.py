"""Building a set of records: `:manifest` from a CSV of one's own, `:phantom`, the embedded one, or a public set.

The public sets and their options: data/README.md.
"""

import ml_collections

# The options of each public set; `config.source` is the root of its download.
SETS = {
    "mimic_cxr": {
        "reports": "",  # folder that holds files/p10/.../s5....txt, or mimic_cxr_sectioned.csv; nothing: the source
        "views": "PA,AP",
        "split": "official",  # "mgca": validate and test are one
        "labeler": "chexpert",  # "negbio"; nothing: no labels
        "uncertain": "ignore",  # the label -1 becomes unknown; or "zeros", "ones"
    },
    "bimcv_covid19": {"modality": "ct", "labels": ""},  # "xray", "ct,xray"; names of findings to keep
    "ct_rate": {"reconstructions": "all", "val_share": 0.02},  # "first": one a scan; of the training patients
    "open_i": {"views": "frontal", "labels": ""},  # "unknown" for NLM's XML; MeSH terms to keep
    "chexpert": {
        "part": "main",  # or "5x200", to evaluate on
        "split": "clean",  # or "mgca"
        "views": "Frontal",
        "uncertain": "mgca",  # blank 0, -1 by task; or "ignore", "zeros", "ones"
        "each": 200,  # films a task of 5x200
        "val": 5000,  # films of mgca's val
    },
    "rsna": {"split": "detection"},  # and segmentation; or "classification"
    "covidx": {"version": "9A", "split": "clean"},  # "9B" has two classes; "mgca"
    "siim": {"split": "clean"},  # or "mgca"
    "object_cxr": {},
    "cc_ccii": {"lists": "", "first_slice": "superior"},  # folder of ct_train.json, ct_test.json; or "inferior"
    "ricord": {"lists": ""},  # folder of UniMiSS's train.txt, val.txt, test.txt
    "luna16": {"test": 0, "val": 1, "smallest_mm": 0.0},  # subsets; nodules of at most so many mm are left out
    "btcv": {},
    "amos22": {},
}
# How reports become captions, and what of that a set has otherwise.
REPORT = {
    "order": "impression,findings",
    "empty": "drop",  # a report with neither: also "last_paragraph" or "whole"
    "blanks": "keep",  # "remove": ___ and XXXX go
    "style": "plain",  # "mgca": words alone, lower case, ASCII
    "longest": 0,  # words; whole sentences go, the impression's last; 0 = any
    "language": "",  # the wanted one, "en" or "es"; nothing: any
    "foreign": "error",  # reports in another language are rejected; or "keep", "translate"
    "translations": "",  # CSV with the columns report_id and english
    "translator": "",  # a Marian model, folder or hub id, such as Helsinki-NLP/opus-mt-es-en
    "back_translator": "",  # another one back, to compare with the original
    "drop_doubtful": False,  # leave out reports whose translation fails a check
}
WITH_REPORTS = {
    "mimic_cxr": {"style": "mgca", "language": "en"},
    "bimcv_covid19": {"language": "es"},
    "ct_rate": {"language": "en"},
    "open_i": {"language": "en"},
}
SOURCES = ("manifest", "phantom", *SETS)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The settings of one source."""
    if arg not in SOURCES:
        raise ValueError(f"configs/build.py:{arg} has no source named '{arg}': give one of {', '.join(SOURCES)}")
    config = ml_collections.ConfigDict()
    config.job = "build"
    config.kind = arg
    config.data_dir = "records"
    config.name = arg
    config.strict = False  # a rejected row makes the build fail
    config.max_rejected = 1.0 if arg == "manifest" else 0.001  # the share of rejected rows above which it fails
    config.dry_run = False  # the doctor: examine everything, write a page about it to the workdir and no records
    config.report_length = 112  # tokens, as pre-training cuts reports: the doctor counts longer ones
    config.workers = 0  # processes that read files; 0 = one for each core that this one may use
    config.runner = "pool"  # of these processes; or "beam", an Apache Beam pipeline (requirements-beam.txt)
    config.beam = ""  # its options, such as "--runner=FlinkRunner --flink_master=host:8081"; nothing: on this machine
    if arg == "phantom":
        config.xrays = 2800
        config.cts = 1400
        config.seed = 0
        config.language = "en"  # of the reports, or "es"
        return config
    config.source = ""  # the CSV, or the root of a public set
    config.keep_ids = False  # store patients as the source names them, not as salted hashes
    config.salt = ""  # of these hashes; nothing: <data_dir>/.salt, made by the first build
    if arg == "manifest":
        config.uncertain = "ignore"  # the label -1 becomes unknown; or "zeros", "ones"
        config.language = ""  # "en" or "es": reports of the other language are left out; mixed ones stay
        config.sections = ""  # "findings,impression": these of a report that has them; nothing: all of it
        config.assume = ""  # directions of a NIfTI's axes that names none, such as "LPS"
        config.min_slices = 4  # of a CT, along the axis with the fewest
        return config
    config.options = ml_collections.ConfigDict(SETS[arg])
    if arg in WITH_REPORTS:
        config.report = ml_collections.ConfigDict(REPORT | WITH_REPORTS[arg])
    return config
