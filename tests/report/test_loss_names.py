"""What a log and the titles of curves say of a loss."""

from unimedi_jax.report import loss_names


def test_losses_are_explained_with_their_unit_and_an_unknown_one_points_to_its_page() -> None:
    assert loss_names.explained(["vl", "icl", "cta", "shares"]) == (
        "the loss is a weighted sum, lower is better, of vl: images against the reports of the batch, in nats; "
        "icl: the student's CLS against the teacher's, in nats; cta, shares: see docs/systems.md"
    )
    assert (loss_names.title("vl"), loss_names.unit("vl")) == ("Image-report contrast (vl)", "nats")
    assert (loss_names.title("cta"), loss_names.unit("cta")) == ("cta", "loss")
