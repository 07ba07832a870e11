"""The training step as training runs it, on random batches: one side of the comparison."""

from typing import Any

import jax

from unimedi_jax import flops, sharding, trees
from unimedi_jax.bench import batch
from unimedi_jax.bench.settings import restored
from unimedi_jax.train.job import build_train_step


class Ours:
    """State and step of `config.pretrain`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        config = restored(settings)
        self._mesh = sharding.make_mesh(**vars(config.mesh))
        self._program = build_train_step(config, settings["vocab_size"], self._mesh)
        with jax.set_mesh(self._mesh):
            self._state = self._program.init(jax.random.key(0))
            self._batch = sharding.put_batch(batch.random(settings), self._mesh)
        work = self._program.flops(vars(config.batch), config.input.report_length)
        kind = self._mesh.devices.flat[0].device_kind
        peak = flops.peak(kind)
        self.say = {
            "parameters": trees.count(self._state.params),
            "jax": jax.__version__,
            "device": kind,
            "flops": work,
            "peak_flops": peak and peak * self._mesh.size,
        }

    def step(self) -> None:
        """One step, to its end."""
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._program.step(self._state, self._batch)
            jax.block_until_ready((self._state.params, metrics))
        self.say["loss"] = float(metrics["loss"].value)

    def peak(self) -> int | None:
        """Bytes of a device's memory that arrays and programs held at most; None on a CPU, which does not tell."""
        told = self._mesh.devices.flat[0].memory_stats()
        return told["peak_bytes_in_use"] if told else None


make = Ours
