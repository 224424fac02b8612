"""Collectives of a compiled program: kinds, bytes and executions."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from i2i_prior.aot.estimate.hlo import Computation, Instruction, Program

KINDS = (
    *("all-gather", "reduce-scatter", "all-reduce", "all-to-all"),
    *("ragged-all-to-all", "collective-broadcast", "collective-permute"),
)
LAYERS, OUTSIDE = "layer loop", "outside"


@dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str  # one of `KINDS`
    where: str  # `LAYERS` or `OUTSIDE`
    bytes: int  # result on one chip, of one execution
    count: int  # executions a step
    # Partitions of the first group that talk to each other, as positions in the
    # flattened mesh; source and target for a permute.
    members: tuple[int, ...]
    axes: tuple[str, ...]  # mesh axes that the members differ in
    shape: tuple[int, ...]  # dimensions of the largest array of the result


def find_collectives(
    program: Program, mesh: dict[str, int], accumulate: int = 1
) -> list[Collective]:
    """Collectives in program order, equal ones not yet added up.

    `mesh` has sizes by axis, in the mesh's order; `accumulate` is the trips of
    the micro-batch loop, which is no layer loop.
    """
    found: list[Collective] = []
    seen: set[tuple] = set()
    for computation, i, loops, _ in program.walk():
        kind = _kind(i)
        if not kind:
            continue
        if "chain_id" in i.attributes:
            # A TPU spreads one transfer over several fusions, all of the
            # same channel.
            transfer = i.attribute("channel_id"), kind, loops
            if transfer in seen:
                continue
            seen.add(transfer)
        members = _members(i, math.prod(mesh.values()))
        if len(members) < 2:
            continue
        result = _result(i, computation)
        if computation.name.startswith("all-reduce-scatter"):
            # A TPU's reduce-scatter: a fusion of all-reduce and slice.
            kind, result = "reduce-scatter", computation.root
        # The micro-batch loop, where there is one, is the outermost.
        layers = loops[1:] if accumulate > 1 else loops
        shapes = _received(i, result)
        found.append(
            Collective(
                kind,
                LAYERS if layers else OUTSIDE,
                sum(shape.bytes for shape in shapes),
                math.prod(loops),
                members,
                _axes(members, mesh),
                max((s.dimensions for s in shapes), key=math.prod),
            )
        )
    return found


def _kind(i: Instruction) -> str:
    """Kind of a collective, of `KINDS`; "" for other instructions."""
    if i.opcode == "recv":
        # Between TPU slices, as ALL_GATHER: a `send` to the host's network.
        match = re.search(r'megascale_transfer_type="(\w+)"', i.attributes)
        kind = match[1].lower().replace("_", "-") if match else ""
        return "collective-permute" if kind == "one-to-one" else kind
    kind = i.opcode.removesuffix("-start")
    return kind if kind in KINDS else ""


def _result(i: Instruction, computation: Computation) -> Instruction:
    """The `-done` of an asynchronous start, else the instruction itself."""
    others = computation.instructions.values() if "-start" in i.opcode else ()
    dones = (o for o in others if o.opcode.endswith("-done"))
    return next((done for done in dones if i.name in done.operands), i)


def _received(i: Instruction, result: Instruction):
    if result is i and i.opcode == "collective-permute-start":
        return i.shapes[1:2]
    return result.shapes[:1] if i.opcode == "recv" else result.shapes


def _members(i: Instruction, chips: int) -> tuple[int, ...]:
    if i.opcode == "recv":
        # "{1,2}x{0:3}": slices, then the devices in each that take part.
        slices = re.search(r'megascale_target="\{([\d,]+)\}', i.attributes)
        count = len(slices[1].split(",")) if slices else 1
        return tuple(range(0, chips, chips // count))
    if i.opcode.startswith("collective-permute"):
        _, _, text = i.attributes.partition("source_target_pairs={")
        pairs = re.findall(r"\{(\d+),(\d+)\}", text.partition("}}")[0] + "}")
        moved = [(int(a), int(b)) for a, b in pairs if a != b]
        return moved[0] if moved else ()
    return first_group(i.attributes, chips)


def first_group(attributes: str, chips: int) -> tuple[int, ...]:
    """First of `replica_groups`, in any of XLA's four notations.

    {{0,1},{2,3}}; {} for all; [2,2]<=[4] or [2,2]<=[2,2]T(1,0), a reshaped
    and transposed count; mesh['a'=2,'b'=2] {'b'}, named axes of a mesh, whose
    partitions may be given as such a count too.
    """
    match = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if match:
        return tuple(_numbers(match[1]))
    match = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?",
        attributes,
    )
    if match:
        return tuple(_count(match[2], match[3], match[1])[0].tolist())
    match = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=(.*?))? \{(.*?)\}",
        attributes,
    )
    if match:
        return _mesh_group(*match.groups())
    return tuple(range(chips))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _count(reshape: str, transpose: str | None, shape: str) -> np.ndarray:
    sides = _numbers(reshape)
    ids = np.arange(math.prod(sides)).reshape(sides)
    if transpose:
        ids = ids.transpose(_numbers(transpose))
    return ids.reshape(_numbers(shape))


def _mesh_group(axes: str, order: str | None, along: str) -> tuple[int, ...]:
    """Partitions of the group that holds the mesh's first one."""
    sizes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if order:
        # As ([16,16]T(1,0)): a count, reshaped and transposed; or a list.
        iota = re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?\)$", order)
        ids = (
            _count(iota[1], iota[2], str(len(ids)))
            if iota
            else np.array([int(n) for n in re.findall(r"\d+", order)])
        )
    ids = ids.reshape(tuple(sizes.values()))
    names = list(sizes)
    # A part of an axis is written 'a':(before)size.
    parts = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along)
    for name, before, size in reversed(parts):
        axis = names.index(name)
        if size:
            sides = list(ids.shape)
            sides[axis : axis + 1] = [int(before), int(size), -1]
            ids = ids.reshape(sides)
            names[axis : axis + 1] = [f"{name}/", name, f"{name}//"]
    chosen = {name for name, _, _ in parts}
    index = tuple(slice(None) if name in chosen else 0 for name in names)
    return tuple(ids[index].ravel().tolist())


def _axes(members: Iterable[int], mesh: dict[str, int]) -> tuple[str, ...]:
    places = np.array(np.unravel_index(list(members), tuple(mesh.values())))
    differ = (places != places[:, :1]).any(axis=1)
    return tuple(name for name, d in zip(mesh, differ, strict=True) if d)


def summary(collectives: list[Collective]) -> list[dict]:
    """Equal ones added up, largest traffic first, as plain values.

    `bytes` is the result of one execution on one chip, `count` executions a
    step: bytes x count is what arrives on a chip in a step.
    """
    groups: Counter[tuple] = Counter()
    for c in collectives:
        equal = c.kind, c.where, c.bytes, c.axes, len(c.members), c.shape
        groups[equal] += c.count
    names = "kind", "where", "bytes", "axes", "group", "shape"
    rows = [
        {**dict(zip(names, equal, strict=True)), "count": count}
        for equal, count in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["bytes"] * row["count"])


def whole_parameters(
    collectives: list[Collective],
    stacked: dict[str, tuple[int, int, int]],
    tensor: int = 1,
) -> list[str]:
    """Stacked layer parameters that are gathered outside the layer loop.

    None are where a program gathers layer by layer. Of parameters of the
    same shape, the first name stands for all. `stacked` has the global shapes
    (layers, in, out) of what is sharded; `tensor` is the shards of the tensor
    axis, which a gather leaves alone.
    """
    outside = {
        _sides(*c.shape)
        for c in collectives
        if c.where == OUTSIDE and c.kind in ("all-gather", "all-reduce")
    }
    found: dict[tuple, str] = {}
    for name, (layers, inputs, outputs) in stacked.items():
        if layers == 1:
            continue  # the compiler makes no loop of one layer
        wholes = {
            _sides(layers, inputs, outputs),
            _sides(layers, inputs // tensor, outputs),
            _sides(layers, inputs, outputs // tensor),
        }
        if wholes & outside:
            found.setdefault((layers, inputs, outputs), name)
    return list(found.values())


def _sides(*shape: int) -> tuple[int, ...]:
    """Sides of an array, sorted: XLA transposes, and adds sides of 1."""
    return tuple(sorted(side for side in shape if side > 1))
