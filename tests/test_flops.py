"""The analytic count against the one XLA makes of its own program."""

import math

import jax
import pytest
from jax import numpy as jnp

from unimedi_jax import flops
from unimedi_jax.models import sizes, towers
from unimedi_jax.objectives import base
from unimedi_jax.objectives import unimedi as objective

# One layer: XLA counts the body of a scan once, however often it runs. Wide, so that matrix products dominate.
WIDE = sizes.Size(width=256, depth=1, heads=4, mlp_width=1024)


@pytest.fixture(scope="module")
def wide(make_tiny) -> towers.UniMedI:
    return make_tiny(
        size=WIDE,
        projection_hidden=512,
        prototypes_cls=512,
        prototypes_patch=256,
        head_hidden=256,
        head_bottleneck=128,
        slices=1,
    )


@pytest.fixture(scope="module")
def shapes(wide):
    return jax.eval_shape(lambda: base.init_variables(wide, objective.Objective(), jax.random.key(0)))


def counted_by_xla(function, *args) -> float:
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("tokens", [16, 120])
def test_forward_of_the_vision_tower(wide, shapes, tokens: int) -> None:
    x = jax.ShapeDtypeStruct((2, tokens - 1, WIDE.width), jnp.float32)

    def encode(params, x):
        return wide.vision.apply({"params": params}, x, method="encode").patches

    counted = counted_by_xla(encode, shapes["params"]["vision"], x)
    assert 2 * flops.transformer(WIDE, tokens) == pytest.approx(counted, rel=0.05)


def test_forward_of_the_report_tower(wide, shapes) -> None:
    text = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    mask = jax.ShapeDtypeStruct((2, 16), bool)

    def read(params, text, mask):
        return wide.report.apply({"params": params}, text, mask)

    counted = counted_by_xla(read, shapes["params"]["report"], text, mask)
    assert 2 * flops.transformer(WIDE, 16) == pytest.approx(counted, rel=0.05)


CONTRAST = {"weight_icl": 0.0, "weight_pcl": 0.0, "slices_by": "random"}


# Random slices: of a teacher's pass that only scores, XLA drops all but the attention, the whole of one layer.
@pytest.mark.parametrize(
    ("xrays", "cts", "settings"),
    [
        (4, 0, {}),
        (4, 0, {"mask_mode": "mask_token"}),
        (0, 4, {"slices_by": "random"}),
        (0, 4, {"slices_by": "random", "weight_icl": 0.0}),
        (4, 0, CONTRAST | {"mask_ratio": 0.0}),
        (0, 4, CONTRAST | {"mask_by": "random"}),
        (4, 0, CONTRAST | {"mask_ratio": 0.0, "negation": True}),
    ],
)
def test_a_whole_training_step(wide, shapes, make_batch, xrays: int, cts: int, settings: dict) -> None:
    goal = objective.Objective(**settings)
    params = shapes["params"]
    teacher = {name: params[name] for name in goal.teacher_parts(wide)}
    centres = {f"centre_{n}": dict.fromkeys(("xray", "ct"), jnp.zeros(p)) for n, p in (("cls", 512), ("patch", 256))}
    stats = {"batch_stats": shapes["batch_stats"], **centres}
    batch = make_batch(wide, xrays, cts)
    for part in batch.values():
        part |= {"negated": part["text"] + 1, "negated_mask": part["text_mask"]} if goal.negation else {}

    grads = jax.grad(base.loss_function(wide, goal), has_aux=True)
    counted = counted_by_xla(grads, params, teacher, stats, batch, jax.random.key(0), jnp.int32(0))
    expected = flops.training_step(wide, goal, xrays=xrays, cts=cts, report_length=8)
    assert expected == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("rank", ["2d", "3d"])
def test_a_tokenizer_and_its_gradients(make_tiny, rank: str) -> None:
    model = make_tiny(size=WIDE, tokenizer="nonlinear")
    params = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))["params"]["vision"]
    patch, method = (model.image_patch, "embed_image") if rank == "2d" else (model.volume_patch, "embed_volume")
    x = jax.ShapeDtypeStruct((4, 16, math.prod(patch)), jnp.float32)

    def total(params, x):
        return jnp.sum(model.vision.apply({"params": params}, x, method=method) ** 2)

    used = {name: params[name] for name in params if name.endswith(rank)}
    counted = counted_by_xla(jax.grad(lambda used, rest, x: total({**rest, **used}, x)), used, params, x)
    first, inside = flops.tokenizer(model, patch, rank)
    assert inside > first / 2, "the sub-patches would not be proved"
    assert 4 * 16 * (2 * first + 3 * inside) == pytest.approx(counted, rel=0.05)


def test_a_step_grows_with_its_batch(wide) -> None:
    def count(xrays: int = 4, cts: int = 2, report_length: int = 8, **settings) -> float:
        rows = {"xrays": xrays, "cts": cts, "report_length": report_length}
        return flops.training_step(wide, objective.Objective(**settings), **rows)

    assert count(cts=0) + count(xrays=0) == pytest.approx(count(), rel=1e-3)
    assert count(mask_ratio=0.75) < count() < count(report_length=16)


def test_a_step_without_need_of_a_teacher_counts_no_pass_of_it(wide) -> None:
    def count(**settings) -> float:
        goal = objective.Objective(weight_icl=0.0, weight_pcl=0.0, **settings)
        return flops.training_step(wide, goal, xrays=0, cts=1, report_length=8)

    blind = count(mask_ratio=0.0, slices_by="random")
    patch, width = 1024, WIDE.width
    alone = flops.transformer(WIDE, 1 + 16) + 2 * 16 * patch * width
    joint = flops.transformer(WIDE, 1 + 32) + 2 * 16 * (patch + 256) * width
    assert count(mask_ratio=0.0) - blind == pytest.approx(alone)
    half = {"mask_ratio": 0.5, "slices_by": "random"}
    assert count(**half) - count(mask_by="random", **half) == pytest.approx(joint)
    assert count(**half) - blind < joint, "the student sees half"


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("cpu", None),
    ],
)
def test_peak_by_the_name_of_the_device(kind: str, peak: float | None) -> None:
    assert flops.peak(kind) == peak
