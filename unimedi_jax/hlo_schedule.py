"""A compiled program in the order in which its instructions were scheduled: what of its exchanges arithmetic hides."""

from collections.abc import Callable
from typing import NamedTuple

from unimedi_jax import hlo
from unimedi_jax.hlo import Computation, Instruction, Program


class Times(NamedTuple):
    """Seconds of one run of a program on one device."""

    whole: float
    waiting: float  # of them those in which an exchange is under way and nothing else


def simulate(
    program: Program, seconds: Callable[[float, float], float], exchange_seconds: Callable[[float], float]
) -> Times:
    """Runs a program's instructions one after the other, beside one network that takes exchanges one after the other.

    An exchange that is written as a start and an end (`all-gather-start`, `all-gather-done`, `async-start`) goes on
    beside the instructions between them, any other one stops the device. A loop takes its first run's time in
    every run.

    Args:
        program: a scheduled program, as `hlo.parse` reads it.
        seconds: of an instruction, from its floating-point operations and the bytes that it moves.
        exchange_seconds: from the bytes that a device sends.
    """

    def sent(one: Instruction, where: Computation) -> float:
        """Bytes that an instruction sends, itself or in what it calls."""
        exchange = hlo.collective(program, one, where)
        inner = (program.computations.get(name, {}) for name in one.called if not exchange)
        return exchange.wire if exchange else sum(sent(part, body) for body in inner for part in body.values())

    def run(name: str) -> Times:
        clock = network = waiting = 0.0
        under_way: dict[str, float] = {}  # when each exchange that was started ends
        where = program.computations[name]
        for one in where.values():
            if one.opcode in ("while", "call", "conditional"):
                times = hlo.trips(one, program.computations) if one.opcode == "while" else 1
                inner = [run(called) for called in one.called if called in program.computations]
                clock += times * sum(part.whole for part in inner)
                waiting += times * sum(part.waiting for part in inner)
                continue
            first = next(iter(one.operands), "")
            if one.opcode.endswith("-update") and first in under_way:
                under_way[one.name] = under_way.pop(first)
                continue
            if one.opcode.endswith("-done") and (ends := under_way.pop(first, None)) is not None:
                waiting, clock = waiting + max(ends - clock, 0.0), max(clock, ends)
                continue
            own = seconds(*hlo.work(program, one, where))
            if not (wire := sent(one, where)):
                clock += own
                continue
            ends = network = max(clock, network) + exchange_seconds(wire)
            if one.opcode.endswith("-start"):
                under_way[one.name] = ends
                continue
            # What a fusion computes beside its exchange hides a part of it.
            computed = clock + (own if one.opcode == "fusion" else 0.0)
            waiting, clock = waiting + max(ends - computed, 0.0), max(computed, ends)
        return Times(max(clock, network), waiting + max(network - clock, 0.0))

    return run(next(iter(program.times)))
