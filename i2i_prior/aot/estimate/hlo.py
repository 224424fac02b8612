"""Parser of the parts of XLA's optimized programs (HLO) that estimates need."""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_NAME = r"[\w.\-]+"
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
# Reducers of all-reduce and sort are `to_apply` too; they cost nothing.
_CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|called_computations"
    r"|true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclass(frozen=True)
class Shape:
    """Array type."""

    dtype: str  # as XLA writes it, "bf16"
    dimensions: tuple[int, ...]
    fast: bool = False  # in on-chip memory (S(1) in a TPU layout)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return math.ceil(math.prod(self.dimensions) * bits(self.dtype) / 8)


def bits(dtype: str) -> int:
    """Bits of an element: bf16 -> 16, pred -> 8, f8e4m3fn -> 8, token -> 0."""
    if dtype == "pred":
        return 8
    size = re.match(r"[a-z]+(\d+)", dtype)
    return int(size[1]) if size else 0


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str  # without %
    opcode: str
    shapes: tuple[Shape, ...]  # of the result; several for a tuple
    operands: tuple[str, ...]  # names of instructions in the same computation
    attributes: str  # the rest of the line
    root: bool = False  # it is the computation's result

    @property
    def bytes(self) -> int:
        """Bytes of the whole result."""
        return sum(shape.bytes for shape in self.shapes)

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Computations that this calls, but for conditions."""
        found = _CALLED.findall(self.attributes)
        return tuple(n for names in found for n in re.findall(_NAME, names))

    def attribute(self, name: str) -> str | None:
        """Text of `name=...` up to the next comma or space, or None."""
        match = re.search(rf"\b{name}=([^,\s]+)", self.attributes)
        return match[1] if match else None


@dataclass
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """Instruction of the computation's result."""
        return next(i for i in self.instructions.values() if i.root)

    def parameter(self, number: int) -> str | None:
        """Name of a parameter."""
        for i in self.instructions.values():
            if i.opcode == "parameter" and i.operands == (str(number),):
                return i.name
        return None


@dataclass
class Program:
    """A parsed module: computations by name, and the name of the first."""

    computations: dict[str, Computation]
    entry: str

    def trips(self, loop: Instruction) -> int:
        """Trip count of a `while`; 1 where it is not known.

        From XLA's own annotation, else the constant that its condition
        compares the counter with (JAX's scans count from zero).
        """
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        name = (loop.attribute("condition") or "").lstrip("%")
        condition = self.computations.get(name, Computation(name))
        limits = [
            int(i.operands[0])
            for i in condition.instructions.values()
            if i.opcode == "constant"
            and i.shapes[0].dtype in ("s32", "s64", "u32")
            and not i.shapes[0].dimensions
        ]
        return max(limits, default=1)

    def walk(self) -> Iterator[tuple[Computation, Instruction, tuple, bool]]:
        """Yields each instruction that runs, once for each call of it: its
        computation, itself, the trip counts of the loops around it from the
        outermost, and whether it is part of a fusion."""
        yield from self._walk(self.entry, (), False)

    def _walk(self, name: str, loops: tuple[int, ...], fused: bool):
        computation = self.computations[name]
        for i in computation.instructions.values():
            yield computation, i, loops, fused
            around = (*loops, self.trips(i)) if i.opcode == "while" else loops
            inside = fused or i.opcode == "fusion"
            for called in i.called:
                yield from self._walk(called, around, inside)


def parse(text: str) -> Program:
    """Reads `jax.stages.Compiled.as_text()`; ValueError if a computation that
    is called, or the entry, is missing."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations[header[2]] = Computation(header[2])
            entry = header[2] if header[1] else entry
        elif line == "}" or line.startswith("}, execution_thread"):
            # A kernel's metadata spans lines, some of which begin with }.
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _parse_instruction(*found.groups())
            if instruction is not None:
                current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("no ENTRY computation in this HLO text")
    for computation in computations.values():
        for i in computation.instructions.values():
            absent = set(i.called) - computations.keys()
            if absent:
                raise ValueError(f"{i.name} calls {absent}, which is not there")
    return Program(computations, entry)


def _parse_instruction(root, name: str, rest: str) -> Instruction | None:
    end = _close(rest) if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, bracket, _ = rest.partition("(")
    if not bracket or not re.fullmatch(r"[\w\-]+", opcode):
        return None
    close = len(opcode) + _close(rest[len(opcode) :])
    inside = rest[len(opcode) + 1 : close - 1]
    if opcode in ("parameter", "constant"):
        operands: tuple[str, ...] = (inside,)
    else:
        operands = tuple(re.findall(f"%({_NAME})", inside))
    return Instruction(
        name, opcode, shapes(kind), operands, rest[close:], bool(root)
    )


def _close(text: str) -> int:
    """Index after the bracket that closes the first one."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index + 1
    return len(text)


def shapes(text: str) -> tuple[Shape, ...]:
    """Arrays of a type as XLA writes it, tuples flattened."""
    return tuple(
        Shape(
            dtype, tuple(map(int, re.findall(r"\d+", sizes))), "S(1)" in layout
        )
        for dtype, sizes, layout in _SHAPE.findall(text)
    )
