"""What a compiled program does, read off its text: XLA's own count takes the body of a loop once."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax


class Instruction(NamedTuple):
    """One line: what it makes, of what, and the rest of the line with its attributes."""

    name: str
    made: str  # type of the result, a tuple's too
    op: str
    rest: str


LINE = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<made>\(.*?\)|\S+) (?P<op>[a-z][\w\-]*)\((?P<rest>.*)$")
HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


class Program:
    """A compiled program as computations of instructions."""

    def __init__(self, compiled: jax.stages.Compiled) -> None:
        self.text = compiled.as_text()
        self.parts: dict[str, list[Instruction]] = {}
        for line in self.text.splitlines():
            if head := HEAD.match(line):
                lines = self.parts[head["name"]] = []
                self.entry = head["name"] if head["entry"] else getattr(self, "entry", "")
            elif found := LINE.match(line):
                lines.append(Instruction(*found.group("name", "made", "op", "rest")))

    def flops(self) -> float:
        """Of all matrix products, 2 per multiply-add, loops as often as they run."""
        return self._flops(self.entry)

    def arrays(self) -> Iterator[tuple[int, ...]]:
        """Shapes of everything that any instruction makes."""
        for lines in self.parts.values():
            for line in lines:
                for _, shape in ARRAY.findall(line.made):
                    yield tuple(map(int, filter(None, shape.split(","))))

    def _flops(self, part: str) -> float:
        total, shapes = 0.0, {line.name: line.made for line in self.parts[part]}
        for line in self.parts[part]:
            assert line.op != "convolution", "this count knows no convolutions"
            if line.op == "dot":
                left = ARRAY.search(shapes[line.rest.split(",")[0].split(")")[0].strip("% ")])
                sizes = [int(s) for s in left[2].split(",")]
                summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)[1]
                made = ARRAY.search(line.made)[2]
                both = [int(s) for s in made.split(",") if s] + [sizes[int(d)] for d in summed.split(",") if d]
                total += 2 * math.prod(both)
            times = 1
            if line.op == "while":
                times = int(re.search(r'"known_trip_count":\{"n":"(\d+)"', line.rest)[1])
            for called in re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", line.rest):
                total += times * self._flops(called)
            if branches := re.search(r"branch_computations=\{([^}]*)\}", line.rest):
                total += max(self._flops(name.strip(" %")) for name in branches[1].split(","))
        return total
