"""Building a set of records: `:manifest` from a CSV of one's own, `:phantom` from the embedded phantom."""

import ml_collections

SOURCES = ("manifest", "phantom")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The settings of one source."""
    if arg not in SOURCES:
        raise ValueError(f"configs/build.py:{arg} has no source named '{arg}': give {' or '.join(SOURCES)}")
    config = ml_collections.ConfigDict()
    config.job = "build"
    config.kind = arg
    config.data_dir = "records"
    config.name = arg
    config.strict = False  # a rejected row makes the build fail
    config.max_rejected = 1.0 if arg == "manifest" else 0.001  # the share of rejected rows above which it fails
    config.dry_run = False  # the doctor: examine everything, write a page about it to the workdir and no records
    config.report_length = 112  # tokens, as pre-training cuts reports: the doctor counts longer ones
    config.workers = 0  # processes that read files; 0 = one a core
    config.runner = "pool"  # of these processes; or "beam", an Apache Beam pipeline (requirements-beam.txt)
    config.beam = ""  # its options, such as "--runner=FlinkRunner --flink_master=host:8081"; nothing: on this machine
    if arg == "manifest":
        config.source = ""  # the CSV
        config.uncertain = "ignore"  # the label -1 becomes unknown; or "zeros", "ones"
        config.language = ""  # "en" or "es": reports of the other language are left out; mixed ones stay
        config.sections = ""  # "findings,impression": these of a report that has them; nothing: all of it
        config.assume = ""  # directions of a NIfTI's axes that names none, such as "LPS"
        config.min_slices = 4  # of a CT, along the axis with the fewest
        config.keep_ids = False  # store patients as the CSV names them, not as salted hashes
        config.salt = ""  # of these hashes; nothing: <data_dir>/.salt, made by the first build
    else:
        config.xrays = 2800
        config.cts = 1400
        config.seed = 0
        config.language = "en"  # of the reports, or "es"
    return config
