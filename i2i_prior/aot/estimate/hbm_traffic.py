"""Bytes that a compiled program moves between HBM and the chip, from its HLO.

A fusion reads its operands and writes its result once; a loop's body runs as
often as the loop. Slices of stacked layers count as what they take, updates
in place as what they put. On-chip buffers (S(1) on TPU) are free.
"""

import math
from collections.abc import Container
from dataclasses import dataclass

from i2i_prior.aot.estimate.collectives import KINDS
from i2i_prior.aot.estimate.hlo import Computation, Instruction, Program

# Neither reads nor writes an array by itself.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call"),
    *("after-all", "opt-barrier", "partition-id", "replica-id"),
}
_MATMUL = ("dot", "convolution", "custom-call")
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclass(frozen=True)
class Traffic:
    """HBM bytes of one chip and step."""

    # Of instructions that hold a matrix product (or a kernel), and of copies
    # that are started early and waited for later.
    beside: float
    alone: float  # of all others, which leave the matrix units idle


def count_traffic(program: Program) -> Traffic:
    """Sums over every instruction that runs."""
    beside = alone = 0.0
    for computation, i, loops, fused in program.walk():
        if fused or i.opcode in _FREE or _transfers(program, i):
            continue
        once = _read(program, computation, i) + _written(program, i)
        size = once * math.prod(loops)
        if _has_matmul(program, i) or i.opcode.endswith("-start"):
            beside += size
        else:
            alone += size
    return Traffic(beside, alone)


def _transfers(program: Program, i: Instruction) -> bool:
    """Collectives are timed by their links; a done repeats its start."""
    kind = i.opcode.removesuffix("-start").removesuffix("-done")
    repeats = i.opcode.endswith(("-done", "-update"))
    if repeats or kind in (*KINDS, "send", "recv"):
        return True
    # A fusion around nothing but a collective, as a TPU's reduce-scatter.
    return _holds(program, i, KINDS) and not _has_matmul(program, i)


def _has_matmul(program: Program, i: Instruction) -> bool:
    return i.opcode in _MATMUL or _holds(program, i, _MATMUL)


def _holds(program: Program, i: Instruction, opcodes: Container[str]) -> bool:
    """Returns True if a fusion contains one of these opcodes."""
    return i.opcode == "fusion" and any(
        inner.opcode in opcodes or _holds(program, inner, opcodes)
        for name in i.called
        for inner in program.computations[name].instructions.values()
    )


def _slow(i: Instruction) -> int:
    return sum(shape.bytes for shape in i.shapes if not shape.fast)


def _read(program: Program, computation: Computation, i: Instruction) -> int:
    operands = enumerate(map(computation.instructions.get, i.operands))
    return sum(
        _taken(program, i, number, whole)
        for number, operand in operands
        if operand and (whole := _slow(operand))
    )


def _taken(program: Program, user: Instruction, number: int, whole: int) -> int:
    """Bytes of operand `number`, of size `whole`, that `user` reads."""
    if user.opcode in _SLICES and number == 0:
        return min(user.bytes, whole)
    if user.opcode == "dynamic-update-slice" and number == 0:
        return 0
    if user.opcode != "fusion":
        return whole
    inner = program.computations[user.called[0]]
    return _taken_of(program, inner, inner.parameter(number), whole)


def _taken_of(
    program: Program, inner: Computation, name: str | None, whole: int
) -> int:
    total = 0
    for user in inner.instructions.values():
        if name is None or name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _taken_of(program, inner, user.name, whole)
        else:
            number = user.operands.index(name)
            total += _taken(program, user, number, whole)
    return min(total, whole)


def _written(program: Program, i: Instruction) -> int:
    if i.opcode == "fusion":
        inner = program.computations[i.called[0]]
        sizes = _puts(inner, inner.root)
        if len(sizes) == len(i.shapes):
            pairs = zip(sizes, i.shapes, strict=True)
            return sum(size for size, shape in pairs if not shape.fast)
    if i.opcode == "dynamic-update-slice":
        return 0  # its update was read, and is as large
    if i.opcode == "copy-start":
        return 0 if i.shapes[0].fast else i.shapes[0].bytes  # copy, original
    return _slow(i)


def _puts(inner: Computation, root: Instruction) -> list[int]:
    """Bytes written for each result of a fusion."""
    if root.opcode == "tuple":
        parts = (inner.instructions[name] for name in root.operands)
        return [size for part in parts for size in _puts(inner, part)]
    if root.opcode == "bitcast" and root.operands[0] in inner.instructions:
        return _puts(inner, inner.instructions[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return [inner.instructions[root.operands[1]].bytes]
    return [root.bytes] if len(root.shapes) == 1 else []
