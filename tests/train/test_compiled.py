"""The paper's step at ViT-B, compiled: what it computes, what it keeps, what it hands back. Nothing runs."""

import math

import jax
import pytest

from unimedi_jax import flops, hlo, optim
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.models import sizes, towers
from unimedi_jax.objectives import make as make_objective
from unimedi_jax.train import state, step

ROWS = {"xray": 6, "ct": 2}  # numbers that no other dimension has
LENGTH = 112
TEACHER = {197: 6, 513: 2, 905: 2}  # tokens and CLS of an X-ray, a volume, slices and volume: rows of the batch
STUDENT = {99: 6, 453: 2}
SIZE = sizes.VISION["B"]


class Step:
    """The compiled step, its program and the state that it takes."""

    def __init__(self) -> None:
        config = PretrainConfig()
        goal = make_objective(**vars(config.objective))
        model = towers.build_model(config.model, 28_996)
        self.goal, self.model = goal, model.clone(head=goal.heads(model))
        tx, schedule = optim.make(config.optim, config.steps)
        self.state = jax.eval_shape(state.make_init(self.model, tx, goal), jax.random.key(0))
        ema = optim.ema_schedule(**vars(config.ema), steps=config.steps)
        train_step = step.make_train_step(self.model, tx, objective=goal, schedule=schedule, ema=ema)
        batch = {
            name: jax.tree.map(lambda x, rows=ROWS[name]: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), part)
            for name, part in towers.example_batch(self.model, LENGTH).items()
        }
        self.compiled = jax.jit(train_step, donate_argnames="state").lower(self.state, batch).compile()
        self.program = hlo.parse(self.compiled.as_text())
        self.made = [one for one, _, _ in self.program.instructions()]


@pytest.fixture(scope="module")
def paper() -> Step:
    return Step()


def test_no_arithmetic_beyond_the_analytic_count(paper: Step) -> None:
    expected = flops.training_step(paper.model, paper.goal, xrays=ROWS["xray"], cts=ROWS["ct"], report_length=LENGTH)
    assert 0.95 < hlo.flops(paper.program) / expected <= 1.05


def test_the_whole_state_is_donated(paper: Step) -> None:
    memory = paper.compiled.memory_analysis()
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(paper.state))
    assert memory.alias_size_in_bytes == held
    assert memory.output_size_in_bytes - held < 2**16, "metrics alone are new"


@pytest.mark.parametrize("tokens", TEACHER)
def test_scores_come_from_one_row_of_the_attention(paper: Step, tokens: int) -> None:
    """One product alone makes (heads, tokens, tokens): what the layer itself attends with."""
    made = [one for one in paper.made if one.opcode == "dot" and one.shapes[0].sizes[-2:] == (tokens, tokens)]
    assert len(made) == 1, [one.attributes for one in made]


@pytest.mark.parametrize(("tokens", "kept"), [*((n, False) for n in TEACHER), *((n, True) for n in STUDENT)])
def test_the_student_alone_keeps_activations(paper: Step, tokens: int, kept: bool) -> None:
    """No stack of all layers' activations at a length that the teacher sees; at the student's there is."""
    rows = (TEACHER | STUDENT)[tokens]
    least = SIZE.depth * rows * tokens * SIZE.width
    stacks = [
        shape.sizes
        for one in paper.made
        for shape in one.shapes
        if shape.sizes[:1] == (SIZE.depth,) and shape.sizes.count(tokens) == 1 and math.prod(shape.sizes) >= least
    ]
    assert bool(stacks) == kept, stacks
