"""The soak test: python -m tests.soak --steps 5000 --out soak.png

Trains the toy of the fault campaign for thousands of steps, with a checkpoint every 25 and an evaluation every 500,
samples memory, open files and threads of its process all the while, and plots them over the steps. Exit code 1 where
one of them still grows in the second half.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from scipy import stats

from tests.faults import __main__ as campaign
from tests.faults import injuries
from unimedi_jax import writers


class Sample(NamedTuple):
    """One look at a process."""

    step: int
    memory: float  # MB resident
    files: int
    threads: int


# How much of itself each may grow by over the second half: memory breathes with saves, the others are counted.
ALLOWED = {"memory": 0.05, "files": 0.0, "threads": 0.0}


def main() -> None:
    """Soaks, plots, judges."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("soak.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = pathlib.Path(folder) / "records"
        campaign.build(records)
        samples = soak(records, pathlib.Path(folder) / "run", options.steps)
    plot(samples, options.out)
    problems = judge(samples)
    last = samples[-1]
    print(
        f"{last.step} steps, {len(samples)} samples: {last.memory:.0f} MB, {last.files} files, {last.threads} threads"
    )
    print(f"plot: {options.out}")
    print("; ".join(problems) or "nothing grows")
    sys.exit(1 if problems else 0)


def soak(records: pathlib.Path, workdir: pathlib.Path, steps: int, every: float = 1.0) -> list[Sample]:
    """Trains `steps` steps and looks at the process `every` second from its first step on."""
    flags = (f"--config.steps={steps}", "--config.checkpoint.every=25", "--config.evals.every=500")
    log = workdir.with_suffix(".log")
    with log.open("w") as stderr:
        process = injuries.start(records, workdir, *flags, stderr=stderr)
    samples = []
    try:
        while process.poll() is None:
            time.sleep(every)
            step = _step(workdir)
            if 0 < step < steps and (counts := look(process.pid)):
                samples.append(Sample(step, *counts))
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise RuntimeError(log.read_text(encoding="utf-8")[-2000:])
    return samples


def look(pid: int) -> tuple[float, int, int] | None:
    """Resident MB, open files and threads of a process; None when it is gone."""
    proc = pathlib.Path(f"/proc/{pid}")
    try:
        words = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return int(words["VmRSS"].split()[0]) / 1024, len(list((proc / "fd").iterdir())), int(words["Threads"])
    except (OSError, KeyError):
        return None


def judge(samples: list[Sample]) -> list[str]:
    """What grows over the second half of the samples: the slope for memory, the lowest counts for the others.

    A save in progress opens files and threads, more or fewer; what leaks is open between the saves too.
    """
    half = len(samples) // 2
    early, late = samples[half // 2 : half], samples[half:]
    if len(early) < 4:
        return [f"only {len(samples)} samples: soak longer"]
    steps, memory = [one.step for one in late], [one.memory for one in late]
    slope = stats.linregress(steps, memory).slope if steps[-1] > steps[0] else 0.0
    grown = {"memory": slope * (steps[-1] - steps[0]) / memory[0]}
    for name in ("files", "threads"):
        before, after = (min(getattr(one, name) for one in part) for part in (early, late))
        grown[name] = (after - before) / before
    return [
        f"{name} grow by {share:.0%} over the second half" for name, share in grown.items() if share > ALLOWED[name]
    ]


def plot(samples: list[Sample], path: pathlib.Path) -> None:
    """Memory, files and threads over the steps."""
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(8, 6), layout="constrained")
    for axis, name in zip(axes, ("memory", "files", "threads"), strict=True):
        axis.plot([one.step for one in samples], [getattr(one, name) for one in samples], linewidth=1)
        axis.set_ylabel("memory, MB" if name == "memory" else name)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("step")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _step(workdir: pathlib.Path) -> int:
    try:
        return max((line["step"] for line in writers.read(workdir)), default=0)
    except ValueError:  # a line is being written
        return 0


if __name__ == "__main__":
    main()
