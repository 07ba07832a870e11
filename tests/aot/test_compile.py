"""The compile job: its arithmetic on the CPU, and the real compilers where they are installed.

The compilers live in an environment of their own (`make aot`): .venv-aot beside the code, or the one that the variable
AOT_PYTHON names.
"""

import functools
import json
import os
import pathlib
import subprocess
from types import SimpleNamespace

import jax
import pytest

from configs import compile as config_file
from data.errors import UserError
from unimedi_jax import hlo, sharding
from unimedi_jax.aot import compile as job
from unimedi_jax.aot import targets
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.train.job import build_train_step

pytestmark = pytest.mark.usefixtures("eight_devices")

ROOT = pathlib.Path(__file__).parent.parent.parent
PYTHON = pathlib.Path(os.environ.get("AOT_PYTHON", ROOT / ".venv-aot" / "bin" / "python"))
INSTALLED = pytest.mark.skipif(
    not PYTHON.exists(), reason=f"the compilers of requirements-aot.txt are not installed (make aot): no {PYTHON}"
)


def attempts(memory, fails_above: float):
    """A compiler whose programs need `memory(samples)`; like a TPU's it gives none that needs too much."""

    def attempt(rows: job.Rows) -> job.Attempt:
        needs = memory(sum(rows.values()))
        tried.append(rows)
        return job.Attempt(rows, {"total": needs}, None if needs > fails_above else SimpleNamespace())

    tried: list[job.Rows] = []
    return attempt, tried


def test_the_largest_batch_that_fits_is_found_in_few_compilations() -> None:
    attempt, tried = attempts(lambda n: 4.0 + 0.1 * n, 16.0)
    best = job.largest(attempt({"xray": 300, "ct": 100}), attempt, 16.0)
    assert best.rows["xray"] == pytest.approx(3 * best.rows["ct"], abs=3)
    assert 15.0 < best.total <= 16.0
    assert len(tried) <= 5


def test_no_batch_fits() -> None:
    attempt, _ = attempts(lambda n: 20.0 + n, 16.0)
    failed = attempt({"xray": 12, "ct": 0})
    assert job.largest(failed, attempt, 16.0) is None
    words = job._too_much(targets.parse("v5e-4"), failed, None)
    assert "at any batch" in words
    assert "\n" not in words


def test_a_guess_that_does_not_fit_is_not_named() -> None:
    attempt, _ = attempts(lambda n: 4.0 + 0.1 * n + (5.0 if 32 < n < 63 else 0.0), 10.0)
    failed = attempt({"xray": 48, "ct": 16})
    assert job.largest(failed, attempt, 10.0).rows == {"xray": 24, "ct": 8}


def test_batches_that_the_settings_do_not_divide_are_not_tried() -> None:
    """Eight devices, two parts, and chunks of 64 rows of the whole batch."""
    settings = typed(PretrainConfig, {"accumulate": 2, "objective": {"contrastive_chunk": 64}})
    allowed = functools.partial(job._divides, settings, 8)
    attempt, tried = attempts(lambda n: 4.0 + 0.1 * n, 10.0)
    assert job.largest(attempt({"xray": 72, "ct": 24}), attempt, 10.0, allowed).rows == {"xray": 42, "ct": 14}
    assert all(map(allowed, tried))
    attempt, tried = attempts(lambda n: 20.0 + n, 16.0)
    assert job.largest(attempt({"xray": 6, "ct": 2}), attempt, 16.0, allowed) is None
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": {"xray": 5, "ct": 3, "total": 8}}, r"8 devices in 1 parts: see config\.pretrain\.accumulate"),
        ({"objective": {"contrastive_chunk": 7}}, r"config\.pretrain\.objective\.contrastive_chunk=7 does not divide"),
    ],
)
def test_a_batch_that_the_settings_do_not_divide_is_one_line(monkeypatch, tmp_path, change, words) -> None:
    config = config_file.get_config("v5e-8,demo")
    config.pretrain.update(change)
    monkeypatch.setattr(targets, "devices", lambda target: jax.devices())
    monkeypatch.setattr(job, "build_train_step", lambda *_: None)
    with pytest.raises(UserError, match=words):
        job._run(targets.parse(config.target), config, tmp_path)


def test_the_words_of_a_tpu_that_is_full() -> None:
    words = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 30.63G of 15.75G hbm. Exceeded hbm ..."
    assert job._used(words) == 30.63 * 2**30
    words = "... on HBM, the total memory required for HLO temporaries (42.30G) exceeds available HBM (15.75G)"
    assert job._used(words) == 42.3 * 2**30
    assert job._used("INTERNAL: something else") is None


@pytest.fixture(scope="module")
def small():
    """The demo's recipe, smaller still."""
    config = config_file.get_config("v5e-8,demo").pretrain
    config.batch.update({"xray": 2, "ct": 1})
    config.model.update({"prototypes_cls": 64, "prototypes_patch": 32, "projection_hidden": 32, "head_hidden": 32})
    return config


def test_the_roofline_of_the_real_step_on_simulated_devices(small) -> None:
    program = build_train_step(typed(PretrainConfig, small), 100, sharding.make_mesh(**small.mesh))
    rows = dict(small.batch)
    done = job._compile(program, rows, small.input.report_length, {})
    assert done.total > 0
    analytic = program.flops(rows, small.input.report_length)
    text = done.compiled.as_text()
    facts = job.roofline(text, targets.parse("v5e-8"), analytic)
    # Unoptimised here, so that a little more is computed than a compiler would leave.
    assert 0.95 < facts["flops_ratio"] < 1.2
    assert hlo.parse(text).devices == 8
    kinds = {row["kind"] for row in facts["collectives"]}
    assert "all-reduce" in kinds  # of the gradients
    gradients = sum(leaf.size for leaf in jax.tree.leaves(program.abstract.params)) * 4
    reduced = sum(row["bytes"] * row["times"] for row in facts["collectives"] if row["kind"] == "all-reduce")
    assert reduced >= gradients * 0.95
    assert facts["roofline_seconds"] == max(facts["seconds"].values())
    assert facts["mfu_bound"] == pytest.approx(analytic / (197e12 * facts["roofline_seconds"]))
    shown = {
        **facts,
        "target": "v5e-8",
        "devices": 8,
        "mesh": dict(program.mesh.shape),
        "rows": rows,
        "compile_seconds": 1.0,
        "memory": {**done.memory, "available": 16e9},
    }
    printed = job.table(shown, 24)
    assert "of 14.90 GiB a device" in printed
    assert "all-reduce" in printed
    assert "goal" not in printed, "at another batch than the goal's"
    assert "(goal: at least 40%)" in job.table(shown | {"rows": job.GOAL_ROWS}, 24)
    parts = facts["bytes_by_part"]
    assert sum(parts.values()) == pytest.approx(facts["bytes"])
    assert all(parts.values()), "each part of the real step is found by its name"
    # Of the new state each array is read and written once; gradients are read, twice with clipping by their norm.
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(program.abstract) if hasattr(leaf, "nbytes"))
    assert parts["weights, moments, EMA teacher"] >= 2 * state
    assert facts["in_order"]["whole"] >= facts["roofline_seconds"]
    assert 0 < facts["in_order"]["waiting"] <= facts["seconds"]["network"] * (1 + 1e-6)
    json.dumps(facts)


def compile_for(target: str, workdir: pathlib.Path, *settings: str) -> subprocess.CompletedProcess:
    arguments = [f"--config=configs/compile.py:{target}", f"--workdir={workdir}", *settings]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    return subprocess.run([PYTHON, "main.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@INSTALLED
def test_tpu(tmp_path: pathlib.Path) -> None:
    done = compile_for("v5e-4,demo,xray_only", tmp_path, "--config.pretrain.model.dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "compile.json").read_text())
    assert facts["memory"]["total"] < facts["memory"]["available"]
    assert 0.9 < facts["flops_ratio"] <= 1.05
    assert any(row["kind"] == "all-reduce" for row in facts["collectives"])


@INSTALLED
def test_h100_with_fused_attention(tmp_path: pathlib.Path) -> None:
    """The vision tower of the demo in bfloat16 through cuDNN's kernels, forward and backward."""
    done = compile_for("h100-8,demo", tmp_path, "--config.pretrain.model.dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "compile.json").read_text())
    assert facts["memory"]["total"] < facts["memory"]["available"]
    assert 0.9 < facts["flops_ratio"] <= 1.05
    fused = {name for name in facts["kernels"] if name.startswith("__cudnn$fmha")}
    assert any(name.endswith("Backward") for name in fused)
    assert any(not name.endswith("Backward") for name in fused)


KERNEL = """
from unimedi_jax.aot import targets
targets.prepare()
import json
import jax
from jax import numpy as jnp
from unimedi_jax import hlo, sharding
from unimedi_jax.models import attention

mesh = sharding.make_mesh(4, 1, devices=targets.devices(targets.parse("v5e-4")))
facts = {}
for kind, samples, tokens in (("xla", 16, 905), ("splash", 16, 905), ("splash", 4, 5488)):
    x = jax.ShapeDtypeStruct((samples, tokens, 12, 64), jnp.bfloat16, sharding=sharding.batch_sharding(mesh))
    loss = lambda q, k, v: jnp.sum(attention.attend(q, k, v, kind=kind).astype(jnp.float32))
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile().as_text()
    program = hlo.parse(text)
    kernels = hlo.called_targets(program)["tpu_custom_call"]
    facts[f"{kind} {tokens}"] = {"flops": hlo.flops(program), "bytes": hlo.bytes_moved(program), "kernels": kernels}
print(json.dumps(facts))
"""


@INSTALLED
def test_the_kernel_of_tpus_is_compiled_for_them_and_moves_less() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([PYTHON, "-c", KERNEL], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["xla 905"]["kernels"] == 0
    assert facts["splash 905"]["kernels"] == facts["splash 5488"]["kernels"] == 2  # forward and backward
    # Four samples a device; 905 tokens fill 1024 places; 2 products forward, 5 backward, 2 a multiply-add.
    assert facts["splash 905"]["flops"] == 14 * 4 * 12 * 1024**2 * 64
    assert facts["splash 905"]["bytes"] < facts["xla 905"]["bytes"] / 10
    # A CT of 112 x 224 x 224, one sample a device, fills 5632 places.
    assert facts["splash 5488"]["flops"] == 14 * 12 * 5632**2 * 64
    array = 5632 * 12 * 64 * 2
    assert facts["splash 5488"]["bytes"] < 40 * array, "the queries' gradients are written once"
