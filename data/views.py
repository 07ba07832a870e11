"""Optional fields of records that say what belongs together: a study, the view of an X-ray, the series of a CT."""

COLUMNS = ("study", "view", "series")
FRONTAL, LATERAL = "frontal", "lateral"
# Words for projections in headers and tables: DICOM's ViewPosition, MIMIC-CXR, PadChest, CheXpert.
FRONTALS = frozenset(("frontal", "pa", "ap", "ap axial", "ap lldecub", "ap rldecub", "ap_horizontal", "pa lldecub"))
LATERALS = frozenset(("lateral", "lat", "l", "ll", "rl", "lateral xwise", "lateral decubitus", "xtable lateral"))


def kind(view: str) -> str:
    """FRONTAL, LATERAL, or "" of a view that is none of the known words."""
    word = view.strip().lower()
    return FRONTAL if word in FRONTALS else LATERAL if word in LATERALS else ""
