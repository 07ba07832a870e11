"""Checkpoints: how long a save holds the run up, how long it takes behind its back, and reading it again."""

import pathlib
import shutil

import jax
import ml_collections

from unimedi_jax import checkpoint, sharding
from unimedi_jax.bench import measure
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.train.job import build_train_step


class Position:
    """Stands for the data iterator."""

    def get_state(self) -> dict[str, int]:
        """The place in the data."""
        return {"next": 0}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Saves the state of `config.pretrain` as often as there are rounds, then restores it."""
    settings = typed(PretrainConfig, config.pretrain)
    mesh = sharding.make_mesh(**vars(settings.mesh))
    program = build_train_step(settings, config.vocab_size, mesh)
    folder = workdir / "checkpointed"
    shutil.rmtree(folder, ignore_errors=True)
    stalls, wholes = [], []
    with jax.set_mesh(mesh), checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        state = jax.block_until_ready(program.init(jax.random.key(0)))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        for step in range(1, config.rounds + 1):
            stalls.append(measure.seconds(lambda step=step: checkpoints.save(step, state, Position(), {})))
            wholes.append(stalls[-1] + measure.seconds(checkpoints.wait))
        restore = measure.seconds(lambda: jax.block_until_ready(checkpoints.restore(program.abstract).state))
    shutil.rmtree(folder)
    results = [
        measure.Result("state", "GB", (size / 1e9,)),
        measure.Result("stall: the loop waits for a save", "s", tuple(stalls)),
        measure.Result("a save to its end, in the background", "s", tuple(wholes)),
        measure.Result("restore, hashes checked", "s", (restore,)),
        measure.ratio("share of a save that the loop waits", stalls, wholes),
    ]
    measure.report("checkpoint", results, workdir)
