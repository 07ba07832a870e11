"""A short soak, and the judge of the long one."""

import random

import pytest

from tests import soak


def steady(count: int = 200) -> list[soak.Sample]:
    rng = random.Random(0)
    return [soak.Sample(10 * i, 900 + rng.uniform(-20, 20), 40 + i % 3, 30) for i in range(count)]


def test_what_breathes_does_not_grow() -> None:
    assert soak.judge(steady()) == []


@pytest.mark.parametrize(
    ("name", "leak"), [("memory", lambda i: 1.0 * i), ("files", lambda i: i // 20), ("threads", lambda i: i // 50)]
)
def test_a_leak_is_named(name, leak) -> None:
    samples = [one._replace(**{name: getattr(one, name) + leak(i)}) for i, one in enumerate(steady())]
    (problem,) = soak.judge(samples)
    assert problem.startswith(f"{name} grow by")


def test_too_short_a_soak_says_so() -> None:
    assert "soak longer" in soak.judge(steady(8))[0]


def test_a_hundred_steps_with_saves_open_no_more_files_and_threads(records_dir, tmp_path) -> None:
    samples = soak.soak(records_dir, tmp_path / "run", 120, every=0.2)
    assert samples[-1].step > 60
    half = len(samples) // 2
    for name in ("files", "threads"):
        counts = [getattr(one, name) for one in samples]
        # A save of its own opens files and threads for as long as it runs.
        assert min(counts[half:]) <= max(counts[:half]), name
    soak.plot(samples, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 5000
