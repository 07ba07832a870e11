"""The public sets by the names of `configs/build.py:<set>`; a module has `read` (a DatasetIndex) and EXPECTED."""

from data.sets import (
    amos22,
    bimcv_covid19,
    btcv,
    cc_ccii,
    chexpert,
    covidx,
    ct_rate,
    luna16,
    mimic_cxr,
    object_cxr,
    open_i,
    ricord,
    rsna,
    siim,
)

SETS = {
    "mimic_cxr": mimic_cxr,
    "bimcv_covid19": bimcv_covid19,
    "ct_rate": ct_rate,
    "open_i": open_i,
    "chexpert": chexpert,
    "rsna": rsna,
    "covidx": covidx,
    "siim": siim,
    "object_cxr": object_cxr,
    "cc_ccii": cc_ccii,
    "ricord": ricord,
    "luna16": luna16,
    "btcv": btcv,
    "amos22": amos22,
}
