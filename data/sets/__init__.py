"""The public sets by the names of `configs/build.py:<set>`; a module has `read` (a DatasetIndex) and EXPECTED."""

import importlib

NAMES = "mimic_cxr bimcv_covid19 ct_rate open_i chexpert rsna covidx siim object_cxr cc_ccii ricord luna16 btcv amos22"
SETS = {name: importlib.import_module(f"data.sets.{name}") for name in NAMES.split()}
