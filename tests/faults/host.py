"""One process of several as one run: a few steps and one batch of an evaluation, told on stdout in one line of JSON.

Without checkpoints, reports and the long evaluation at the end, which `tests/test_hosts.py` and the campaign have.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from tests.faults import config as toy
from unimedi_jax import hosts, sharding
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.train import job as jobs
from unimedi_jax.train import loop, state

STEPS = 3


def main(records: str, workdir: str, coordinator: str) -> None:
    """Trains on a mixed mesh with every leaf split that can be."""
    sharding.SMALLEST_SHARDED = 64
    config = toy.get_config()
    config.data_dir, config.distributed.coordinator = records, coordinator
    config.distributed.timeout = 300  # the processes share what cores there are
    config.mesh.update(data=2, fsdp=2)
    hosts.connect(**config.distributed)
    job = jobs.build_job(typed(PretrainConfig, config), pathlib.Path(workdir))
    with jax.set_mesh(job.mesh):
        found = job.init(jax.random.key(config.seed))
        split = [leaf for leaf in jax.tree.leaves(found) if not leaf.sharding.is_fully_replicated]
        batches, told = jobs.open_batches(job), []
        for _ in range(STEPS):
            batch = next(batches)
            found, metrics = job.step(found, sharding.put_batch(loop._arrays(batch), job.mesh))
            told.append({name: float(mean.value) for name, mean in metrics.items()})
        embedder = jobs.build_evaluator(job).embedder
        text = np.arange(embedder.rows * 8, dtype=np.int32).reshape(-1, 8) % 50
        z = embedder(embedder.report, state.variables(found), text, text > 3)
        batches.close()
        largest = hosts.largest(10 + jax.process_index(), job.mesh)
    facts = {"split": len(split), "processes": jax.process_count(), "largest": largest}
    print(json.dumps({"steps": told, "z": z.tolist(), **facts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
