"""The losses against PyTorch and against slow loops in numpy."""

import math

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType

from tests.objectives import trial
from tests.tolerances import float32
from unimedi_jax import hlo, losses, sharding

TAU = 0.07


@pytest.fixture
def pairs() -> tuple[jax.Array, jax.Array]:
    image, text = np.random.default_rng(0).standard_normal((2, 7, 16), np.float32)
    return tuple(jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True)) for z in (image, text))


def test_contrastive_equals_torch_both_ways(pairs) -> None:
    torch = pytest.importorskip("torch")
    image, text = (torch.tensor(np.array(z), requires_grad=True) for z in pairs)
    logits, target = image @ text.T / TAU, torch.arange(7)
    ways = [torch.nn.functional.cross_entropy(x, target) for x in (logits, logits.T)]
    loss = sum(ways) / 2
    loss.backward()
    ours = losses.contrastive(*pairs, TAU)
    np.testing.assert_allclose(ours.mean(axis=1), [way.item() for way in ways], rtol=1e-5)
    grads = jax.grad(lambda i, t: losses.contrastive(i, t, TAU).mean(), argnums=(0, 1))(*pairs)
    for ours, theirs in zip(grads, (image.grad, text.grad), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_contrastive_equals_a_loop(pairs) -> None:
    image, text = (np.float64(z) for z in pairs)
    for way, (a, b) in enumerate([(image, text), (text, image)]):
        for i in range(7):
            likeness = [np.exp(a[i] @ b[j] / TAU) for j in range(7)]
            expected = -np.log(likeness[i] / sum(likeness))
            assert losses.contrastive(*pairs, TAU)[way, i] == pytest.approx(expected, rel=1e-4)


def test_contrastive_of_one_pair_is_zero(pairs) -> None:
    assert losses.contrastive(pairs[0][:1], pairs[1][:1], TAU).tolist() == [[0.0], [0.0]]


def test_contrastive_follows_a_joint_permutation(pairs) -> None:
    order = np.array([3, 1, 6, 0, 2, 5, 4])
    expected = losses.contrastive(*pairs, TAU)[:, order]
    actual = losses.contrastive(pairs[0][order], pairs[1][order], TAU)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_contrastive_of_perfect_alignment_is_near_zero() -> None:
    z = jnp.eye(8)
    assert losses.contrastive(z, z, TAU).max() < 1e-5
    assert losses.contrastive(z, jnp.roll(z, 1, axis=0), TAU).min() > 10.0


def test_identical_reports_share_the_target(pairs) -> None:
    image, text = pairs
    groups = np.array([0, 1, 2, 0, 3, 4, 0])
    actual = losses.contrastive(image, text, TAU, jnp.asarray(groups))
    logits = np.float64(image) @ np.float64(text).T / TAU
    for way, scores in enumerate((logits, logits.T)):
        log_share = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        expected = [-log_share[i, groups == groups[i]].mean() for i in range(7)]
        np.testing.assert_allclose(actual[way], expected, rtol=1e-4)
    alone = losses.contrastive(image, text, TAU, jnp.array([3, 1, 4, 0, 5, 9, 2]))
    np.testing.assert_allclose(alone, losses.contrastive(image, text, TAU), atol=float32(16, scale=1 / TAU))


def test_same_report_ignores_padding() -> None:
    text = np.array([[5, 6, 0], [5, 6, 9], [5, 6, 9], [5, 0, 6]], np.int32)
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    for chunk in (0, 2):
        actual = losses.same_report(jnp.asarray(text), jnp.asarray(mask), chunk)
        np.testing.assert_array_equal(actual, [0, 0, 2, 3])


def many_pairs(batch: int, width: int) -> tuple[jax.Array, jax.Array]:
    z = np.random.default_rng(3).standard_normal((2, batch, width), np.float32)
    return tuple(jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True)))


@pytest.mark.parametrize("chunk", [1, 8, 16, 48])
@pytest.mark.parametrize("shared", [False, True])
def test_chunks_change_neither_value_nor_gradient(chunk: int, shared: bool) -> None:
    pairs = many_pairs(48, 16)
    report = jnp.arange(48) % 20 if shared else None
    weight = jnp.linspace(0.5, 1.5, 96).reshape(2, 48)  # a cotangent that tells the samples apart

    def run(chunk: int):
        def loss(image, text, temperature):
            each = losses.contrastive(image, text, temperature, report, chunk)
            return jnp.mean(each * weight), each

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*pairs, jnp.float32(TAU))

    for ours, expected in zip(*map(jax.tree.leaves, (run(chunk), run(0))), strict=True):
        np.testing.assert_allclose(ours, expected, atol=float32(48), rtol=float32(48, depth=2))


@pytest.mark.parametrize("chunk", [0, 3])
def test_soft_targets_and_negated_reports_equal_numpy(pairs, chunk: int) -> None:
    """And the target has no gradient: that of a target handed in as a constant is the same."""
    image, text = (z[:6] for z in pairs)
    negated = jnp.asarray(np.random.default_rng(3).standard_normal((6, 16)).astype(np.float32))
    negated /= jnp.linalg.norm(negated, axis=1, keepdims=True)
    differs = jnp.asarray([True, False, True, True, False, True])
    share, temperature = 0.3, 0.2

    def ours(image, text, negated):
        opposite = losses.Negated(negated, differs)
        return losses.contrastive(image, text, TAU, None, chunk, (share, temperature), opposite)

    likeness = np.exp(np.float64(text) @ np.float64(text).T / temperature)
    targets = (1 - share) * np.eye(6) + share * likeness / likeness.sum(axis=1, keepdims=True)
    logits = np.float64(image) @ np.float64(text).T / TAU
    extra = np.sum(np.float64(image) * np.float64(negated), axis=1) / TAU
    for i in range(6):
        to_reports = np.log(np.exp(logits[i]).sum() + (np.exp(extra[i]) if differs[i] else 0)) - targets[i] @ logits[i]
        to_images = np.log(np.exp(logits[:, i]).sum()) - targets[i] @ logits[:, i]
        np.testing.assert_allclose(ours(image, text, negated)[:, i], [to_reports, to_images], rtol=1e-5)

    def by_hand(image, text, negated):
        logits = image @ text.T / TAU
        extra = jnp.where(differs, jnp.sum(image * negated, axis=1) / TAU, -1e9)
        rows = optax.softmax_cross_entropy(
            jnp.concatenate([logits, extra[:, None]], axis=1), jnp.pad(jnp.float32(targets), [(0, 0), (0, 1)])
        )
        return rows.sum() + optax.softmax_cross_entropy(logits.T, jnp.float32(targets)).sum()

    grads, expected = (
        jax.jit(jax.grad(function, argnums=(0, 1, 2)))(image, text, negated)
        for function in (lambda *z: ours(*z).sum(), by_hand)
    )
    for got, leaf in zip(grads, expected, strict=True):
        np.testing.assert_allclose(got, leaf, atol=float32(16, depth=4, scale=1 / TAU))
    assert not grads[2][1].any(), "a report that is not turned has no opposite"


def test_a_chunk_divides_the_batch() -> None:
    with pytest.raises(ValueError, match="batch of 48 does not divide into chunks of 9"):
        losses.contrastive(*many_pairs(48, 16), TAU, chunk=9)


@pytest.mark.parametrize("devices", [1, 8])
def test_chunks_take_memory_by_the_row(devices: int) -> None:
    """Forward and backward of 2048 pairs: 64 rows of similarities, or a device's share of them, and not 2048."""
    batch, chunk = 2048, 64
    mesh = jax.make_mesh((devices, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])
    pairs = jax.device_put(many_pairs(batch, 16), sharding.batch_sharding(mesh))

    def compiled(chunk: int) -> jax.stages.Compiled:
        def loss(image, text):
            return losses.contrastive(image, text, TAU, chunk=chunk).mean()

        with jax.set_mesh(mesh):
            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*pairs).compile()

    dense, ours = compiled(0), compiled(chunk)
    taken = [run.memory_analysis().temp_size_in_bytes for run in (ours, dense)]
    assert taken[1] > batch * batch * 4 / devices
    assert taken[0] < taken[1] / 4
    largest = max(
        math.prod(shape.sizes) for one, _, _ in hlo.parse(ours.as_text()).instructions() for shape in one.shapes
    )
    assert largest <= max(batch * 16, batch * chunk / devices)
    for a, b in zip(*(jax.tree.leaves(run(*pairs)) for run in (ours, dense)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=float32(batch, depth=2))


@pytest.mark.parametrize("chunk", [0, 3])
def test_koleo_equals_numpy(chunk: int) -> None:
    rows = np.random.default_rng(5).standard_normal((12, 6)).astype(np.float32)
    unit = np.float64(rows) / np.linalg.norm(np.float64(rows), axis=1, keepdims=True)
    nearest = [min(np.linalg.norm(a - b) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
    actual = losses.koleo(jnp.asarray(rows), chunk)
    np.testing.assert_allclose(actual, -np.log(nearest), rtol=1e-5, atol=float32(6))


def test_koleo_pushes_neighbours_apart_and_bears_copies() -> None:
    rows = jnp.asarray([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0], [-1.0, 0.0]])
    step = -jax.grad(lambda x: losses.koleo(x).sum())(rows)
    assert step[0, 1] > 0 > step[1, 1], "the two move away from each other"
    assert not step[2:].any(), "equal samples have no direction in which to part"
    assert losses.koleo(rows[:1]).tolist() == [0.0]


@pytest.fixture
def logits() -> tuple[jax.Array, jax.Array, jax.Array]:
    student, teacher = np.random.default_rng(1).standard_normal((2, 4, 5, 12), np.float32)
    return jnp.asarray(student), jnp.asarray(teacher), jnp.linspace(-1.0, 1.0, 12)


def test_self_distillation_equals_torch(logits) -> None:
    torch = pytest.importorskip("torch")
    student, teacher, centre = (torch.tensor(np.array(x)) for x in logits)
    student.requires_grad_()
    target = torch.nn.functional.softmax((teacher - centre) / 0.04, dim=-1)
    loss = -(target * torch.nn.functional.log_softmax(student / 0.1, dim=-1)).sum(dim=-1)
    loss.mean().backward()
    ours = losses.self_distillation(*logits, 0.1, 0.04)
    assert ours.shape == (4, 5)
    np.testing.assert_allclose(ours, loss.detach().numpy(), rtol=1e-5)
    grad = jax.grad(lambda s: losses.self_distillation(s, *logits[1:], 0.1, 0.04).mean())
    np.testing.assert_allclose(grad(logits[0]), student.grad.numpy(), atol=1e-6)


def test_self_distillation_equals_a_loop(logits) -> None:
    student, teacher, centre = (np.float64(x) for x in logits)
    ours = losses.self_distillation(*logits, 0.1, 0.07)
    for i, j in np.ndindex(4, 5):
        p = np.exp((teacher[i, j] - centre) / 0.07)
        q = np.exp(student[i, j] / 0.1)
        expected = -sum(a * np.log(b) for a, b in zip(p / p.sum(), q / q.sum(), strict=True))
        assert ours[i, j] == pytest.approx(expected, rel=1e-4)


def test_no_gradient_reaches_the_teacher(logits) -> None:
    def loss(teacher, centre):
        return losses.self_distillation(logits[0], teacher, centre, 0.1, 0.04).sum()

    for grad in jax.grad(loss, argnums=(0, 1))(*logits[1:]):
        assert not grad.any()


def test_self_distillation_is_least_where_the_student_agrees(logits) -> None:
    _, teacher, centre = logits
    agreeing = 0.1 * (teacher - centre[None, None]) / 0.04
    least = losses.self_distillation(agreeing, teacher, centre, 0.1, 0.04)
    sharpened = (teacher - centre[None, None]) / 0.04
    entropy = optax.softmax_cross_entropy(sharpened, jax.nn.softmax(sharpened))
    np.testing.assert_allclose(least, entropy, rtol=1e-4, atol=1e-5)
    assert (losses.self_distillation(logits[0], teacher, centre, 0.1, 0.04) > least).all()


def information(targets: jax.Array) -> float:
    return float(losses.information(targets.mean(axis=0), losses.entropy(targets).mean()))


def information_in_numpy(targets: np.ndarray) -> float:
    """As a Kullback-Leibler divergence, sample by sample: of a target from the mean target."""
    targets = np.float64(targets)
    mean, total = targets.mean(axis=0), 0.0
    for target in targets:
        total += sum(p * np.log(p / q) for p, q in zip(target, mean, strict=True) if p > 0)
    return total / len(targets)


@pytest.mark.parametrize("samples", [1, 3, 12])
def test_information_of_targets_on_prototypes_of_their_own(samples: int) -> None:
    assert information(jnp.eye(12)[:samples]) == pytest.approx(math.log(samples), abs=1e-6)


def test_information_is_none_in_both_collapses() -> None:
    sharp = losses.assignments(100.0 * jnp.eye(12), jnp.zeros(12), 0.04)
    assert information(jnp.broadcast_to(sharp[5], (12, 12))) == pytest.approx(0.0, abs=1e-6), "one prototype for all"
    assert information(jnp.full((12, 16), 1 / 16)) == pytest.approx(0.0, abs=1e-6), "all prototypes for each"
    rows = np.random.default_rng(0).dirichlet(np.ones(12)).astype(np.float32)
    assert information(jnp.tile(rows, (7, 1))) == pytest.approx(0.0, abs=1e-6), "the same for each"
    assert information(sharp) == pytest.approx(math.log(12), abs=1e-5)


@pytest.mark.parametrize("sharpness", [0.02, 0.2, 2.0])
def test_information_equals_numpy(sharpness: float) -> None:
    targets = np.random.default_rng(1).dirichlet(np.full(12, sharpness), 9).astype(np.float32)
    expected = information_in_numpy(targets)
    assert 0 < expected < math.log(9)
    assert information(jnp.asarray(targets)) == pytest.approx(expected, abs=float32(12, depth=4))


@pytest.mark.parametrize("shape", [(6, 12), (3, 4, 12)])
def test_centre_is_a_running_mean(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    teacher, centre = rng.standard_normal(shape), rng.standard_normal(12)
    expected = 0.9 * centre + 0.1 * teacher.reshape(-1, 12).mean(axis=0)
    actual = losses.update_centre(jnp.float32(centre), jnp.float32(teacher))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_equals_numpy(iterations: int) -> None:
    logits = np.random.default_rng(0).uniform(-1, 1, (10, 5)).astype(np.float32)
    actual = losses.sinkhorn(jnp.asarray(logits), 0.05, iterations)
    np.testing.assert_allclose(actual, trial.sinkhorn(logits, 0.05, iterations), atol=1e-5)


def test_sinkhorn_balances_rows_and_columns() -> None:
    logits = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (10, 5)).astype(np.float32))
    logits += 0.5 * jnp.eye(5)[None, 0]  # one prototype draws all samples

    def off(iterations: int) -> float:
        shares = losses.sinkhorn(logits, 0.2, iterations)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
        return float(jnp.abs(shares.sum(axis=0) - 10 / 5).max())

    softmax = float(jnp.abs(jax.nn.softmax(logits / 0.2).sum(axis=0) - 10 / 5).max())
    assert off(3) < softmax / 4
    assert off(60) < 1e-4


def test_known_values_of_sinkhorn() -> None:
    np.testing.assert_allclose(losses.sinkhorn(jnp.full((10, 5), 3.0), 0.05, 3), 0.2, rtol=1e-6)
    # Groups of equal size are separated, and an epsilon whose exponentials float32 does not hold is no harm.
    groups = jnp.repeat(jnp.eye(5), 2, axis=0)
    np.testing.assert_allclose(losses.sinkhorn(groups, 1e-3, 3), groups, atol=1e-6)
