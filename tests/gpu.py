"""What only a machine with an NVIDIA GPU can measure, in ten minutes: python -m tests.gpu --out gpu

ViT-B's step beside PyTorch's, eager and compiled, at two batches, with both sides' memory; a run of the demo with the
share of its time that it waits for data, killed once on its way; and tests/train/test_gpu.py. What is printed are rows
for docs/performance.md. A part that fails, or that the time is too short for, is named, and the exit code is 1.
`--rehearse` runs the same parts with toy networks on the CPU.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unimedi_jax.bench import measure

ROOT = pathlib.Path(__file__).parents[1]
BATCHES = ((12, 4), (48, 16))
WARM_UP = 50  # steps that the waiting share leaves out
KILLED_AT, SAVED_EVERY, STEPS = 150, 100, 300
TOY = ("--config=tests/faults/config.py", "--config.steps=12", "--config.checkpoint.every=3")


class Row(NamedTuple):
    """One line of a table in docs/performance.md."""

    what: str
    figure: str
    command: str = ""

    def __str__(self) -> str:
        return f"| {self.what} | {self.figure} | {f'`{self.command}`' if self.command else ''} |"


class FailedError(Exception):
    """A part that did not come to its end, and why."""


class Machine(NamedTuple):
    """Where the parts run: until when, in what folder, and whether it is a rehearsal."""

    until: float
    out: pathlib.Path
    rehearsal: bool

    @property
    def environment(self) -> dict[str, str]:
        """That of a user, whatever the caller's tests have set; a rehearsal keeps what makes those quick."""
        if self.rehearsal:
            return os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        known = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
        return known | {"JAX_PLATFORMS": "cuda"}

    def run(self, *command: str) -> str:
        """What a command says; raises FailedError where it fails or the time is over."""
        left = self.until - time.monotonic()
        options = {"cwd": ROOT, "env": self.environment, "capture_output": True, "text": True}
        try:
            done = subprocess.run([sys.executable, *command], timeout=max(left, 0.1), **options)
        except subprocess.TimeoutExpired as error:
            raise FailedError("the time is over") from error
        if done.returncode:
            raise FailedError((done.stderr or done.stdout).strip().splitlines()[-1])
        return done.stdout


def steps(machine: Machine) -> Iterator[Row]:
    """The step of ViT-B in bfloat16 at both batches."""
    for xrays, cts in BATCHES[:1] if machine.rehearsal else BATCHES:
        words = [f"--config.pretrain.batch.xray={xrays}", f"--config.pretrain.batch.ct={cts}"]
        if machine.rehearsal:
            words = [
                "--config=configs/bench.py:step,demo,unimedi",
                "--config.rounds=1",
                "--config.vocab_size=60",
                *words,
            ]
        else:
            words = ["--config=configs/bench.py:step", "--config.pretrain.model.dtype=bfloat16", *words]
            words.append("--config.compiled=True")
        workdir = machine.out / f"step-{xrays}-{cts}"
        machine.run("main.py", *words, f"--workdir={workdir}")
        yield from step_rows((workdir / measure.LINES).read_text(encoding="utf-8").splitlines(), xrays, cts, words)


def step_rows(lines: Sequence[str], xrays: int, cts: int, words: Sequence[str]) -> Iterator[Row]:
    """The rows of one batch, from the lines of bench.jsonl."""
    found = {line["name"]: line for line in map(json.loads, lines)}
    command = " ".join(words).replace("--config=configs/", "", 1)
    for name, line in found.items():
        spread = f" ({measure.short(line['low'])} to {measure.short(line['high'])}, {line['rounds']} rounds)"
        figure = f"{measure.short(line['median'])} {line['unit']}".rstrip() + spread * (line["rounds"] > 1)
        yield Row(f"step, {xrays} X-rays and {cts} CTs: {name}", figure, command)
        command = ""


def training(machine: Machine) -> Iterator[Row]:
    """A run of the demo, killed in the middle and started again."""
    if machine.rehearsal:
        from tests.faults import __main__ as campaign

        records, killed_at = machine.out / "records", 5
        campaign.build(records)
        words = [*TOY, f"--config.data_dir={records}"]
    else:
        killed_at = KILLED_AT
        words = [
            "--config=configs/pretrain.py:demo",
            f"--config.steps={STEPS}",
            f"--config.checkpoint.every={SAVED_EVERY}",
            "--config.evals.every=0",
            "--config.model.dtype=bfloat16",
            "--config.batch.xray=80",
            "--config.batch.ct=48",
        ]
    command = [sys.executable, "main.py", *words, f"--workdir={machine.out / 'run'}"]
    options = {"cwd": ROOT, "env": machine.environment, "stdout": subprocess.DEVNULL, "text": True}
    log: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, **options) as process:
        for line in process.stderr:
            log.append(line)
            late = time.monotonic() > machine.until
            at = re.search(r"step (\d+) of", line)
            if late or (at and int(at[1]) >= killed_at):
                process.send_signal(signal.SIGKILL)
    if process.returncode != -signal.SIGKILL or late:
        raise FailedError("the time is over" if late else f"no step {killed_at}: {''.join(log[-1:]).strip()}")
    machine.run(*command[1:])
    yield from run_rows((machine.out / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines(), words)


def run_rows(lines: Sequence[str], words: Sequence[str]) -> Iterator[Row]:
    """Pace and waiting of a run that was killed once, from the lines of metrics.jsonl."""
    entries = [entry for entry in map(json.loads, lines) if "speed/samples_per_s" in entry]
    steady = [entry for entry in entries if entry["step"] > WARM_UP] or entries
    pace = statistics.median(entry["speed/samples_per_s"] for entry in steady)
    waiting = statistics.median(entry["speed/wait_share"] for entry in steady)
    numbers = [entry["step"] for entry in entries]
    if numbers != sorted(set(numbers)):
        raise FailedError("a step is twice in metrics.jsonl")
    command = " ".join(words).replace("--config=configs/", "", 1)
    yield Row("a run of the demo, killed once and gone on with", f"{measure.short(pace)} samples/s", command)
    yield Row("its share of time waiting for data", f"{waiting:.1%}")


def tests(machine: Machine) -> Iterator[Row]:
    """cuDNN's attention beside plain products, and two equal runs."""
    file = "tests/train/test_gpu.py"
    said = machine.run("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", file).splitlines()[-1]
    yield Row("cuDNN's attention as near to float32 as products; two runs equal to the bit", said, f"pytest {file}")


PARTS = {"step": steps, "run": training, "tests": tests}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the rows; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu"), help="folder of what the parts write")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in this order")
    parser.add_argument("--rehearse", action="store_true", help="toy networks on the CPU")
    options = parser.parse_args(arguments)
    if not options.rehearse and shutil.which("nvidia-smi") is None:
        print("no NVIDIA GPU here (nvidia-smi is missing): --rehearse runs the parts on the CPU", file=sys.stderr)
        return 2
    machine = Machine(time.monotonic() + 60 * options.minutes, options.out.resolve(), options.rehearse)
    machine.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    print("| what | figure | command |\n|---|---|---|", flush=True)
    for name in options.parts.split(","):
        try:
            for row in PARTS[name](machine):
                print(row, flush=True)
        except FailedError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
