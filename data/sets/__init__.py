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

_X_RAYS = (mimic_cxr, open_i, chexpert, rsna, covidx, siim, object_cxr)
_CTS = (bimcv_covid19, ct_rate, cc_ccii, ricord, luna16, btcv, amos22)  # the first has X-rays, too
SETS = {module.__name__.rpartition(".")[2]: module for module in (*_X_RAYS, *_CTS)}
