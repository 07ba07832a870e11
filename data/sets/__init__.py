"""The public sets by the names of `configs/build.py:<set>`; a module has `read` (a DatasetIndex) and EXPECTED."""

from data.sets import (
    amos22,
    bimcv_covid19,
    btcv,
    cc_ccii,
    chexpert,
    chexpert_plus,
    covidx,
    ct_rate,
    flare22,
    luna16,
    luna25,
    medmnist3d,
    mimic_cxr,
    nih_chestxray14,
    object_cxr,
    open_i,
    padchest,
    rad_chestct,
    rexgradient,
    ricord,
    rsna,
    siim,
    vindr_cxr,
)

_REPORTED = (mimic_cxr, bimcv_covid19, ct_rate, open_i, chexpert_plus, rexgradient, padchest)
_X_RAYS = (chexpert, rsna, covidx, siim, object_cxr, nih_chestxray14, vindr_cxr)
_CTS = (cc_ccii, ricord, luna16, luna25, btcv, amos22, flare22, rad_chestct, medmnist3d)
SETS = {module.__name__.rpartition(".")[2]: module for module in (*_REPORTED, *_X_RAYS, *_CTS)}
