"""The speed of training as the log shows it: samples a second, time left, waiting for data, MFU."""

import time
from collections.abc import Mapping

from unimedi_jax import flops
from unimedi_jax.report import loss_names


class Speed:
    """Clocks of the loop. `waited` brackets the wait for data; `report` gives the rates since the last report."""

    def __init__(self, *, first: int, last: int, samples: int, device_kind: str, devices: int) -> None:
        self._last, self._samples = last, samples
        peak = flops.peak(device_kind)
        self._peak = None if peak is None else peak * devices
        self._rate = 0.0  # steps a second
        self.restart(first)

    def restart(self, step: int) -> None:
        """Forgets the time up to `step`: after compilation or an evaluation."""
        self._mark, self._mark_step, self._waited = time.perf_counter(), step, 0.0
        self._flops: float | None = 0.0

    def waited(self, seconds: float) -> None:
        """Adds time that the loop spent waiting for a batch."""
        self._waited += seconds

    def worked(self, flops: float | None) -> None:
        """Adds the FLOPs of a step; None where they are not known."""
        self._flops = None if flops is None or self._flops is None else self._flops + flops

    def report(self, step: int) -> dict[str, float]:
        """Scalars since the last report: `samples_per_s`, `wait_share`, and `mfu` where the device's peak is known."""
        now = time.perf_counter()
        steps, seconds = step - self._mark_step, max(now - self._mark, 1e-9)
        self._rate = steps / seconds
        scalars = {"speed/samples_per_s": self._rate * self._samples, "speed/wait_share": self._waited / seconds}
        if self._peak and self._flops is not None:
            scalars["speed/mfu"] = self._flops / seconds / self._peak
        self.restart(step)
        return scalars

    def eta(self, step: int) -> str:
        """Time left at the rate of the last report, such as "2 h 07 min" or "7 min 38 s"; evaluations not included."""
        minutes, seconds = divmod(int((self._last - step) / self._rate) if self._rate else 0, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"

    def line(self, step: int, values: Mapping[str, float]) -> str:
        """A step in the log, from its scalars and those of the last report."""
        parts = ", ".join(f"{name} {values[f'loss/{name}']:.3f}" for name in loss_names.of(values))
        rates = [f"{values['speed/samples_per_s']:.0f} samples/s"]
        rates += [f"MFU {values['speed/mfu']:.0%}"] if "speed/mfu" in values else []
        rates += [f"waiting for data {values['speed/wait_share']:.1%} of the time"]
        loss = f"step {step} of {self._last}: loss {values['loss']:.3f} ({parts})"
        return f"{loss}; {', '.join(rates)}; {self.eta(step)} left"
