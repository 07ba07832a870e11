"""What a compiled program does, read from its HLO text: arithmetic, memory traffic, collectives, array shapes.

XLA's own `cost_analysis` counts the body of a loop once, and gives nothing for GPUs that are not present.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

# Name, shape, opcode, and everything after the opening bracket.
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.$-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.$-]+) \(.*-> .*\{$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?((?:%[\w.$-]+(?:, )?)+)")
_BITS = {"pred": 8, "token": 0}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SLICES = ("dynamic-slice", "slice", "gather")
# These move nothing by themselves: they are names, or their bodies are counted.
_FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
        "add-dependency",
    ]
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: dtype, sizes, and whether it lies in main memory (on a TPU: not in VMEM)."""

    dtype: str
    sizes: tuple[int, ...]
    main: bool

    @property
    def bytes(self) -> int:
        """Size in bytes, without the padding of tiles."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits.group()) if digits else 8)
        return math.prod(self.sizes) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]  # of the result, tuples flattened
    opcode: str
    inside: str  # the brackets: operands, a parameter's number, a constant's value
    attributes: str
    root: bool

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions whose results it takes."""
        return tuple(re.findall(r"%([\w.$-]+)", self.inside))

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that run as part of it."""
        return tuple(n for names in _CALLED.findall(self.attributes) for n in re.findall(r"%([\w.$-]+)", names))


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices, with all its repetitions."""

    kind: str
    bytes: int  # of the whole array, on each device
    group: int  # devices that exchange with each other
    times: int  # in one run of the program
    source: str  # the operation of the program that it comes from

    @property
    def wire(self) -> float:
        """Bytes that each device sends in all repetitions, on a ring."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.bytes * self.times


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a compiled module by name, and how often each runs."""

    computations: dict[str, Computation]
    times: dict[str, int]
    fused: frozenset[str]  # parts of fusions: what moves between their instructions never reaches memory
    devices: int

    def instructions(self) -> Iterator[tuple[Instruction, Computation, int]]:
        """Every instruction that runs, its computation, and how often it runs."""
        for name, times in self.times.items():
            for instruction in self.computations[name].values():
                yield instruction, self.computations[name], times


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`."""
    text = re.sub(r'\n("[^\n]*)\n(?=\}\})', r"\1", text)  # a kernel's description, on lines of its own
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = computations.setdefault(head[2], {})
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif match := _LINE.match(line):
            root, name, shape, opcode, rest = match.groups()
            current[name] = Instruction(name, shapes(shape), opcode, *_bracket(rest), bool(root))
    times: dict[str, int] = collections.Counter()
    fused: set[str] = set()
    _run(computations, entry, 1, False, times, fused)
    return Program(computations, dict(times), frozenset(fused), int(_first(r"num_partitions=(\d+)", text, "1")))


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a shape such as `(f32[8,2]{1,0}, s32[])`."""
    return tuple(
        Shape(dtype, tuple(map(int, filter(None, sizes.split(",")))), not re.search(r"S\([1-9]", layout))
        for dtype, sizes, layout in _ARRAY.findall(text)
    )


def flops(program: Program) -> float:
    """Floating-point operations of one device in matrix products and convolutions, 2 per multiply-add."""
    return sum(times * _products(one, where) for one, where, times in program.instructions())


def bytes_moved(program: Program) -> float:
    """Bytes that one device reads from and writes to its main memory: what enters and leaves its fusions."""
    return sum(bytes_by_source(program).values())


def bytes_by_source(program: Program) -> collections.Counter[str]:
    """The bytes of `bytes_moved` by the operation of the program that moves them, such as "jit(f)/mlp/dot_general"."""
    moved: collections.Counter[str] = collections.Counter()
    for name, times in program.times.items():
        if name not in program.fused:
            for one in (where := program.computations[name]).values():
                moved[_source(program, one)] += times * _traffic(program, one, where)
    return moved


def work(program: Program, one: Instruction, where: Computation) -> tuple[float, float]:
    """Floating-point operations and bytes of one instruction, run once, those inside a fusion included."""
    inner = [program.computations[name] for name in one.called] if one.opcode == "fusion" else []
    operations = _products(one, where) + sum(work(program, part, body)[0] for body in inner for part in body.values())
    return operations, _traffic(program, one, where)


def collective(program: Program, one: Instruction, where: Computation) -> Collective | None:
    """The exchange that an instruction is or starts, once; None where it is none."""
    kind = one.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    group = _group(one.attributes, program.devices)
    size = sum(shape.bytes for name in one.operands for shape in where[name].shapes)
    return Collective(kind, size * group if kind == "all-gather" else size, group, 1, _source(program, one))


def exchanged(program: Program) -> list[Collective]:
    """Every collective with its bytes, largest traffic first; equal ones of one source are added up."""
    times_run: collections.Counter[Collective] = collections.Counter()
    for one, where, times in program.instructions():
        if exchange := collective(program, one, where):
            times_run[exchange] += times
    rows = [dataclasses.replace(exchange, times=times) for exchange, times in times_run.items()]
    return sorted(rows, key=lambda row: -row.wire)


def trips(loop: Instruction, computations: dict[str, Computation]) -> int:
    """How often a loop runs: as XLA notes it, else the number that its condition compares with."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    ends = computations.get(_first(r"condition=%?([\w.$-]+)", loop.attributes), {}).values()
    return max((int(one.inside) for one in ends if one.opcode == "constant" and one.inside.isdigit()), default=1)


def called_targets(program: Program) -> collections.Counter[str]:
    """Custom calls by name, such as cuDNN's, and how often each runs."""
    counts: collections.Counter[str] = collections.Counter()
    for one, _, times in program.instructions():
        if target := re.search(r'custom_call_target="([^"]+)"', one.attributes):
            counts[target[1]] += times
    return counts


def _source(program: Program, one: Instruction) -> str:
    """The operation of the program that an instruction comes from: its own name for it, or that of a fusion's parts."""
    parts = [one, *(part for name in one.called for part in reversed(program.computations.get(name, {}).values()))]
    return next((name for part in parts if (name := _first(r'op_name="([^"]*)"', part.attributes))), "")


def _bracket(text: str) -> tuple[str, str]:
    """The text before the closing bracket, and the text after it."""
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:index], text[index + 1 :]
    return text, ""


def _run(
    computations: dict[str, Computation], name: str, times: int, inside: bool, count: dict[str, int], fused: set[str]
) -> None:
    count[name] += times
    if inside:
        fused.add(name)
    for one in computations.get(name, {}).values():
        if one.opcode in ("reduce", "scatter", "sort", "map", "reduce-window", "select-and-scatter", *COLLECTIVES):
            continue  # applied to elements
        for called in one.called:
            if called in computations:
                again = times * (trips(one, computations) if one.opcode == "while" else 1)
                _run(computations, called, again, inside or one.opcode == "fusion", count, fused)


def _products(one: Instruction, where: Computation) -> float:
    if one.opcode == "dot":
        return 2 * math.prod(one.shapes[0].sizes) * _contracted(one, where, r"lhs_contracting_dims=\{([\d,]*)\}")
    if one.opcode == "convolution":
        return _convolution(one, where)
    settings = re.sub(r"\s", "", one.attributes)  # JSON, spaced in one version and not in another
    if "__cublas$" in one.attributes or "__onednn$matmul" in one.attributes:
        pattern = r'"lhs_contracting_dimensions":\[([\d,"]*)\]'
        return 2 * math.prod(one.shapes[0].sizes) * _contracted(one, where, pattern)
    if "__cudnn$fmha" in one.attributes:
        # Scores (batch, heads, queries, keys) and what is summed over for them, from the batch, heads and queries.
        scores = _first(r'"intermediate_tensor_shape":\{.*?"dimensions":\[([\d,"]+)\]', settings, "0")
        sizes = [int(n) for n in re.findall(r"\d+", scores)]
        width = math.prod(where[one.operands[0]].shapes[0].sizes) / max(math.prod(sizes[:3]), 1)
        return (10 if "Backward" in one.attributes else 4) * math.prod(sizes) * width
    if kernel := re.search(r"/splash_mha_(fwd|dkv)", one.attributes if one.opcode == "custom-call" else ""):
        # After tables of blocks, whose numbers are integers: queries and keys, ([batch,] heads, length, width).
        arrays = [where[name].shapes[0] for name in one.operands]
        queries, keys = [array.sizes for array in arrays if "f" in array.dtype][:2]
        return (4 if kernel[1] == "fwd" else 10) * math.prod(queries) * keys[-2]
    return 0.0


def _contracted(one: Instruction, where: Computation, pattern: str) -> int:
    axes = re.search(pattern, re.sub(r"\s", "", one.attributes))
    sizes = where[one.operands[0]].shapes[0].sizes
    return math.prod(sizes[int(axis)] for axis in re.findall(r"\d+", axes[1])) if axes else 0


def _convolution(one: Instruction, where: Computation) -> float:
    """TPUs turn all products into convolutions, batched ones by stride and dilation, so that few cells are touched."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if not labels:
        return 0.0
    arrays = [array.shapes[0].sizes for array in (where[one.operands[0]], where[one.operands[1]], one)]
    pairs = zip(labels.groups(), arrays, strict=True)
    lhs, rhs, out = (dict(zip(names, sizes, strict=True)) for names, sizes in pairs)
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", _first(r"window=\{([^}]*)\}", one.attributes)))
    total = 2.0 * rhs["i"] * out["f"] * out["b"]
    for axis, name in enumerate(sorted(filter(str.isdigit, lhs))):

        def per_axis(key: str, default: str, axis: int = axis) -> str:
            return window[key].split("x")[axis] if key in window else default

        stride, lhs_dilate, rhs_dilate = (int(per_axis(k, "1")) for k in ("stride", "lhs_dilate", "rhs_dilate"))
        low = int(per_axis("pad", "0_0").split("_")[0])
        at = np.add.outer(np.arange(out[name]) * stride, np.arange(rhs[name]) * rhs_dilate) - low
        total *= np.count_nonzero((at >= 0) & (at <= (lhs[name] - 1) * lhs_dilate) & (at % lhs_dilate == 0))
    return total


def _main(of: Instruction) -> int:
    return sum(shape.bytes for shape in of.shapes if shape.main)


def _traffic(program: Program, one: Instruction, where: Computation) -> float:
    if one.opcode in _FREE or one.opcode.endswith("-update"):
        return 0.0
    if one.opcode.endswith("-done"):
        return _main(one)  # the start has read it
    if one.opcode in (*_SLICES, "slice-start"):
        smallest = min((shape.bytes for shape in one.shapes if shape.sizes), default=0)
        reads = smallest if any(shape.main for n in one.operands[:1] for shape in where[n].shapes) else 0
        return reads + (_main(one) if one.opcode in _SLICES else 0)
    if one.opcode == "dynamic-update-slice":
        return 2 * _main(where[one.operands[1]])
    if one.opcode == "fusion":
        inner = program.computations[one.called[0]]
        reads = [_read(program, inner, i, where[name]) for i, name in enumerate(one.operands)]
        return sum(reads) + _written(inner, one)
    written = 0 if one.opcode.endswith("-start") else _main(one)
    if one.opcode == "custom-call" and len(one.shapes) > 1:  # its last result is a workspace, mostly unused
        written -= sum(shape.bytes for shape in one.shapes[-1:] if shape.dtype in ("s8", "u8"))
    return written + sum(_main(where[name]) for name in one.operands if name in where)


def _read(program: Program, inner: Computation, number: int, operand: Instruction) -> int:
    """Bytes that a fusion reads of its operand `number`: of a scanned stack only the current layer."""
    size = _main(operand)
    return min(_used(program, inner, _parameter(inner, number), size), size) if size else 0


def _parameter(inner: Computation, number: int) -> str:
    return next((one.name for one in inner.values() if one.opcode == "parameter" and one.inside == str(number)), "")


def _used(program: Program, inner: Computation, name: str, size: int) -> int:
    total = 0
    for one in inner.values():
        if name not in one.operands:
            continue
        if one.opcode in _SLICES and one.operands[0] == name:
            total += sum(shape.bytes for shape in one.shapes)
        elif one.opcode == "dynamic-update-slice" and one.operands[0] == name:
            continue  # in place
        elif one.opcode == "bitcast":
            total += _used(program, inner, one.name, size)
        elif one.opcode == "fusion":
            nested = program.computations[one.called[0]]
            for number, operand in enumerate(one.operands):
                total += _used(program, nested, _parameter(nested, number), size) if operand == name else 0
        else:
            return size
    return total


def _written(inner: Computation, fusion: Instruction) -> int:
    root = next((one for one in inner.values() if one.root), None)
    parts = [inner[name] for name in root.operands] if root and root.opcode == "tuple" else [root] if root else []
    total = 0
    for shape, part in zip(fusion.shapes, parts, strict=False):
        while part.opcode == "bitcast" and part.operands[0] in inner:
            part = inner[part.operands[0]]
        update = part.opcode == "dynamic-update-slice"
        size = sum(s.bytes for s in inner[part.operands[1]].shapes) if update else shape.bytes
        total += size if shape.main else 0
    return total


def _group(attributes: str, devices: int) -> int:
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])  # or a part of an axis, 'a':(2)4
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed[1].count(",") + 1
    if "source_target_pairs" in attributes:
        return 2
    return devices


def _first(pattern: str, text: str, default: str = "") -> str:
    """The first group where the pattern first matches."""
    match = re.search(pattern, text)
    return match[1] if match else default
