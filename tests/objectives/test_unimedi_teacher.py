"""Where UniMedI's teacher runs: wherever a choice or a distillation needs it, and nowhere else."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax import selection
from unimedi_jax.models import sizes
from unimedi_jax.objectives import base, contrast
from unimedi_jax.objectives.unimedi import Objective

ALONE = {"weight_icl": 0.0, "weight_pcl": 0.0}
PARTS = ("vision", "head_cls", "head_patch")
XRAY, VOLUME, JOINT = 17, 17, 49  # tokens of the tiny model with CLS
HALF = {"xray": 9, "ct": 25}  # with half of them dropped


@pytest.fixture(scope="module")
def shallow(make_tiny):
    """`shallow(**settings)`: one layer, for what has to compile often."""
    return lambda **settings: make_tiny(size=sizes.Size(32, 1, 4, 64), **settings)


@pytest.mark.parametrize(
    ("settings", "teachers_xray", "teachers_ct", "students"),
    [
        ({"mask_ratio": 0.0}, [], [VOLUME], {"xray": XRAY, "ct": JOINT}),
        ({"mask_ratio": 0.0, "slices_by": "random"}, [], [], {"xray": XRAY, "ct": JOINT}),
        ({"mask_by": "random", "slices_by": "random"}, [], [], HALF),
        ({"mask_by": "random"}, [], [VOLUME], HALF),
        ({"slices_by": "random"}, [XRAY], [JOINT], HALF),
        ({}, [XRAY], [VOLUME, JOINT], HALF),
        ({"mask_ratio": 0.0, "slices_by": "random", "weight_icl": 1.0}, [XRAY], [JOINT], {"xray": XRAY, "ct": JOINT}),
        ({"mask_by": "random", "slices_by": "random", "weight_pcl": 1.0}, [XRAY], [JOINT], HALF),
    ],
)
def test_the_teachers_passes_are_those_that_something_needs(
    shallow, random_tree, make_batch, settings: dict, teachers_xray: list, teachers_ct: list, students: dict
) -> None:
    model, objective = shallow(), Objective(**ALONE | settings)
    start = trial.networks(model, objective, random_tree)
    assert start.teacher.keys() == set(PARTS if teachers_xray + teachers_ct else ())
    assert start.params.keys() >= {"head_cls", "head_patch"}, "the student's heads are made all the same"
    passes = [(4, n) for n in [*teachers_xray, students["xray"]]] + [(3, n) for n in [*teachers_ct, students["ct"]]]
    assert trial.passes(model, objective, start, make_batch(model, 4, 3)) == sorted(passes)


def test_without_slices_nothing_chooses_them(shallow) -> None:
    whole = Objective(**ALONE, mask_ratio=0.0)
    assert whole.teacher_parts(shallow(slices=0)) == ()
    assert whole.teacher_parts(shallow(slices=2)) == PARTS
    assert Objective(mask_ratio=0.0).teacher_parts(shallow(slices=0)) == PARTS


def test_what_is_not_masked_is_not_gathered(shallow, random_tree, make_batch, monkeypatch) -> None:
    """Nor where it is distilled."""

    def refuse(*_):
        raise AssertionError("tokens were gathered")

    monkeypatch.setattr(selection, "gather_tokens", refuse)
    model = shallow(slices=0)
    for settings in (ALONE, {}):
        objective = Objective(**settings, mask_ratio=0.0)
        start = trial.networks(model, objective, random_tree)
        jax.eval_shape(trial.loss(model, objective), *start, make_batch(model, 4, 3))
    with pytest.raises(AssertionError, match="gathered"):
        jax.eval_shape(trial.loss(model, Objective()), *start, make_batch(model, 4, 3))


def test_one_encoder_is_plain_contrast(shallow, random_tree, make_batch) -> None:
    """Loss and gradients are those of the other objective, which has no teacher and drops nothing."""
    model = shallow(slices=0)
    objective, plain = Objective(**ALONE, mask_ratio=0.0), contrast.Objective()
    start, batch = trial.networks(model, objective, random_tree), make_batch(model, 4, 3)
    assert start.teacher == {}
    value, metrics, _, grads = trial.gradients(model, objective, start, batch)
    expected, _, _, expected_grads = trial.gradients(
        model, plain, start._replace(model_state={"batch_stats": start.model_state["batch_stats"]}), batch
    )
    assert metrics.keys() == {"loss", "loss/vl", "xray/vl", "ct/vl"}
    near = float32(64, depth=LAYER_SUMS + 6, scale=1 / 0.07)
    assert float(value) == pytest.approx(float(expected), abs=near)
    length = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(expected_grads)))
    for ours, leaf in zip(*map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(ours, leaf, atol=near * length)


@pytest.mark.parametrize("name", ["icl", "pcl"])
def test_one_distillation_has_its_target_alone(shallow, random_tree, make_batch, name: str) -> None:
    """The other's loss is what it was beside both, and nothing is kept for the one without weight."""
    model = shallow()
    one, both = Objective(**ALONE | {f"weight_{name}": 1.0}), Objective()
    start, batch = trial.networks(model, both, random_tree), make_batch(model, 4, 3)
    metrics = [jax.jit(trial.loss(model, goal))(*start, batch)[1][0] for goal in (one, both)]
    for part in ("xray", "ct", "loss"):
        ours, expected = (float(means[f"{part}/{name}"].value) for means in metrics)
        assert ours == pytest.approx(expected, rel=1e-5)

    def teacher_forward(teacher, batch):
        bound = base.bind_teacher(model, teacher)
        return one.teacher_forward(bound, batch, jax.random.key(0), jnp.int32(0))

    for output in jax.eval_shape(teacher_forward, start.teacher, batch).values():
        assert (output.cls is None, output.patches is None) == (name == "pcl", name == "icl")
