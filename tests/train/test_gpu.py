"""What only an NVIDIA GPU can show: its fused kernel means what the products mean, and runs repeat themselves."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.faults import __main__ as campaign
from tests.faults import injuries

pytestmark = pytest.mark.skipif(
    shutil.which("nvidia-smi") is None or importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="no NVIDIA GPU, or no JAX for it (requirements-cuda.txt)",
)
# Nothing compiled is taken over: what a second process finds out by trying must come out the same.
GPU = {"JAX_PLATFORMS": "cuda", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_ENABLE_COMPILATION_CACHE": "false"}
KERNEL = """
import json
import jax
import numpy as np
from jax import numpy as jnp
from unimedi_jax.models import attention

assert attention.fitting(jax.devices()[0], "bfloat16") == "cudnn"
distances = {}
for tokens in (49, 453, 905):
    wide = jnp.asarray(np.random.default_rng(tokens).standard_normal((4, 2, tokens, 12, 64)), jnp.float32)
    def run(kind, dtype):
        def loss(q, k, v):
            out = attention.attend(q, k, v, kind=kind).astype(jnp.float32)
            return jnp.sum(out * wide[3]), out
        parts = wide[:3].astype(dtype)
        made = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*parts)
        alone = jax.jit(lambda q, k, v: attention.attend(q, k, v, kind=kind))(*parts)
        return [np.asarray(x, np.float32) for x in jax.tree.leaves((made, alone))]
    with jax.default_matmul_precision("highest"):
        exact = run("xla", jnp.float32)
    away = lambda kind: [
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(run(kind, jnp.bfloat16), exact, strict=True)
    ]
    distances[tokens] = {"cudnn": away("cudnn"), "xla": away("xla")}
print(json.dumps(distances))
"""


def test_the_fused_kernel_is_as_near_to_float32_as_the_products() -> None:
    """dq, dk, dv, the output with them and the output alone, at even and odd lengths, in bfloat16."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([sys.executable, "-c", KERNEL], cwd=injuries.ROOT, env=known | GPU, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    for lengths in json.loads(done.stdout.splitlines()[-1]).values():
        for fused, products in zip(lengths["cudnn"], lengths["xla"], strict=True):
            assert 0 < fused < 2 * products < 0.03


def test_a_run_repeats_itself_to_the_bit(records_dir, tmp_path) -> None:
    """Once alone, once compiled anew, and once killed in the middle. None comes to its evaluation."""

    def train(name: str, until: int) -> campaign.Observed:
        process = injuries.start(
            records_dir,
            tmp_path / name,
            "--config.checkpoint.keep_every=1",
            "--config.model.dtype=bfloat16",
            "--config.evals.every=100",
            FAULTS_IDS=str(tmp_path / f"{name}.ids"),
            **GPU,
        )
        log = []
        with process:
            for line in process.stderr:
                log.append(line)
                if f"step {until} of" in line:
                    process.kill()
        assert process.returncode == -9, "".join(log)
        run = campaign.observe(tmp_path / name, tmp_path / f"{name}.ids")
        # A kill comes a little later than asked for.
        return run._replace(lines=run.lines[:10], ids={k: v for k, v in run.ids.items() if k <= 10})

    alone, again = train("alone", 11), train("again", 11)
    train("killed", 5)  # which leaves a checkpoint of step 3
    killed = train("killed", 11)
    for run in (alone, again, killed):
        assert {"3", "6"} <= run.hashes.keys()
        assert len(run.lines) == len(run.ids) == 10
        assert campaign.differences(alone, run, whole=False) == []
