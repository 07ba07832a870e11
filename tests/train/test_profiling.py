"""The trace of a few steps, read by JAX's own parser of what TensorBoard opens."""

import jax
import pytest
from jax import numpy as jnp

from unimedi_jax.train.profiling import Profiler


def steps_of(trace) -> set[str]:
    (path,) = trace.glob("plugins/profile/*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    names = {event.name for plane in planes for line in plane.lines for event in line.events}
    return {name for name in names if "step_" in name}


@pytest.fixture(scope="module")
def functions():
    """A function for each step, with a name of its own."""
    made = {}
    for step in range(1, 6):

        def work(x):
            return jnp.tanh(x @ x)

        work.__name__ = f"step_{step}"
        made[step] = jax.jit(work)
    return made


def run(functions, profiler: Profiler, last: int) -> None:
    x = jnp.ones((64, 64))
    with profiler:
        for step in range(1, last + 1):
            profiler.before(step)
            profiler.after(step, functions[step](x))


@pytest.mark.parametrize(("asked", "last", "inside"), [("3:4", 5, (3, 4)), ("4:9", 5, (4, 5)), ("1:1", 2, (1,))])
def test_the_trace_holds_the_steps_asked_for_and_no_others(functions, tmp_path, asked, last, inside):
    run(functions, Profiler(asked, tmp_path / "profile"), last)
    names = " ".join(steps_of(tmp_path / "profile"))
    for step in range(1, last + 1):
        assert (f"step_{step}" in names) == (step in inside), (step, names)


def test_without_a_wish_nothing_is_written(functions, tmp_path):
    run(functions, Profiler("", tmp_path / "profile"), 2)
    assert not list(tmp_path.iterdir())
