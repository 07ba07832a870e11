"""Optional fields of records that say what belongs together: a study, the view of an X-ray, the series of a CT."""

COLUMNS = ("study", "view", "series")
FRONTAL, LATERAL = "frontal", "lateral"
# Words for projections in headers and tables: DICOM's ViewPosition, MIMIC-CXR, PadChest, CheXpert. A decubitus X-ray is
# taken across the bed of a patient who lies on a side: it shows the chest from the front or from behind.
DECUBITUS = ("lld", "rld", "lldecub", "rldecub", "decubitus")
FRONTALS = frozenset(
    (
        *("frontal", "pa", "ap", "ap axial", "ap_horizontal"),
        *(f"{beam}{side}" for beam in ("", "ap ", "pa ") for side in DECUBITUS),
        *("lateral decubitus", "left lateral decubitus", "right lateral decubitus"),
    )
)
LATERALS = frozenset(("lateral", "lat", "l", "ll", "rl", "lateral xwise", "xtable lateral"))


def kind(view: str) -> str:
    """FRONTAL, LATERAL, or "" of a view that is none of the known words."""
    word = view.strip().lower()
    return FRONTAL if word in FRONTALS else LATERAL if word in LATERALS else ""
