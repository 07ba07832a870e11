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
    config.dry_run = False  # examine everything, write nothing
    config.workers = 0  # processes that read files; 0 = one a core
    if arg == "manifest":
        config.source = ""  # the CSV
    else:
        config.xrays = 2800
        config.cts = 1400
        config.seed = 0
        config.language = "en"  # of the reports, or "es"
    return config
