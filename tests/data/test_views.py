"""Which words for a projection are frontal and which lateral."""

import pytest

from data import views


@pytest.mark.parametrize(
    ("view", "kind"),
    [
        ("PA", views.FRONTAL),
        ("AP_horizontal", views.FRONTAL),
        ("LLD", views.FRONTAL),
        ("RLD", views.FRONTAL),
        ("AP RLDECUB", views.FRONTAL),
        ("PA LLD", views.FRONTAL),
        ("Lateral decubitus", views.FRONTAL),
        ("LL", views.LATERAL),
        ("XTABLE LATERAL", views.LATERAL),
        ("LPO", ""),
        ("", ""),
    ],
)
def test_a_decubitus_film_is_a_frontal_projection(view, kind):
    """DICOM PS3.3 C.8.1.1.1: LL and RL are lateral, LLD and RLD the left and right lateral decubitus."""
    assert views.kind(view) == kind
