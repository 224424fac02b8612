"""Names and shapes there, names and shapes here: one table, both ways.

A layout is a list of `Rule`s. A rule ties some of our parameters (names of
`models.functional`) to some keys of a torch state dict by an operation that
only moves numbers, so torch -> here -> torch is exact to the bit. `{i}` in a
key stands for the layer; our arrays of such a rule have a leading layer axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from i2i_prior.errors import UserError

Arrays = tuple[np.ndarray, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """How arrays of one layer move; each inverts the other."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Rule:
    """Our parameters and their keys, tied by an operation.

    Attributes:
      ours: our names.
      theirs: their keys, with `{i}` for the layer where there is one.
      op: between the arrays of both, in this order.
      first, layers: their layers first .. first + layers - 1 are our 0 ..
        layers - 1; layers is None for a weight that no layer has.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    op: Op
    layers: int | None = None
    first: int = 0

    def layer_keys(self) -> list[tuple[str, ...]]:
        """Their keys, a tuple a layer."""
        if self.layers is None:
            return [self.theirs]
        numbers = range(self.first, self.first + self.layers)
        return [tuple(key.format(i=i) for key in self.theirs) for i in numbers]


def _each(function: Callable[[np.ndarray], np.ndarray]) -> Any:
    return lambda arrays: tuple(function(a) for a in arrays)


SAME = Op(_each(lambda a: a), _each(lambda a: a))
# torch Linear (out, in) <-> our kernel (in, out)
LINEAR = Op(_each(lambda a: a.T), _each(lambda a: a.T))
# torch Conv2d (O, I, h, w) <-> (h, w, I, O)
CONV = Op(
    _each(lambda a: a.transpose(2, 3, 1, 0)),
    _each(lambda a: a.transpose(3, 2, 0, 1)),
)


def patch_conv(patch: int) -> Op:
    """Conv2d (O, I, p, p) of stride p <-> a kernel ((p, p, I), O)."""

    def to_ours(a: np.ndarray) -> np.ndarray:
        return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])

    def to_theirs(a: np.ndarray) -> np.ndarray:
        split = a.reshape(patch, patch, -1, a.shape[-1])
        return split.transpose(3, 2, 0, 1)

    return Op(_each(to_ours), _each(to_theirs))


def reshaped(ours: Shape, theirs: Shape) -> Op:
    """The same numbers in the same order under another shape."""
    return Op(
        _each(lambda a: a.reshape(ours)), _each(lambda a: a.reshape(theirs))
    )


def then(first: Op, second: Op) -> Op:
    """Towards us `first`, then `second`."""
    return Op(
        lambda arrays: second.to_ours(first.to_ours(arrays)),
        lambda arrays: first.to_theirs(second.to_theirs(arrays)),
    )


def _join(arrays: Arrays) -> Arrays:
    return (np.concatenate(arrays, axis=0),)


def fused_here(count: int) -> Op:
    """`count` of their arrays are one of ours, stacked along their axis 0."""
    return Op(_join, lambda arrays: tuple(np.split(arrays[0], count)))


def fused_there(count: int) -> Op:
    """One of their arrays is `count` of ours, split along their axis 0."""
    return Op(lambda arrays: tuple(np.split(arrays[0], count)), _join)


def linear(
    ours: str | tuple[str, ...],
    theirs: str | tuple[str, ...],
    *,
    layers: int | None = None,
    bias: bool = True,
) -> list[Rule]:
    """Kernel and bias of a linear layer, or of layers fused on one side.

    Args:
      ours, theirs: names without `/kernel` and `.weight`; several names on
        one side are fused on the other, in this order.
      layers: how many, for names with `{i}`.
      bias: whether there is one.
    """
    here = (ours,) if isinstance(ours, str) else ours
    there = (theirs,) if isinstance(theirs, str) else theirs
    fuse = SAME
    if len(there) > len(here):
        fuse = fused_here(len(there))
    elif len(here) > len(there):
        fuse = fused_there(len(here))
    pairs = [("kernel", "weight", then(fuse, LINEAR))]
    if bias:
        pairs.append(("bias", "bias", fuse))
    return [
        Rule(
            tuple(f"{name}/{a}" for name in here),
            tuple(f"{key}.{b}" for key in there),
            op,
            layers,
        )
        for a, b, op in pairs
    ]


def norm(ours: str, theirs: str, *, layers: int | None = None) -> list[Rule]:
    """Gain and bias of a norm: gain, bias <-> weight, bias."""
    return [
        same(f"{ours}/gain", f"{theirs}.weight", layers=layers),
        same(f"{ours}/bias", f"{theirs}.bias", layers=layers),
    ]


def same(ours: str, theirs: str, *, layers: int | None = None) -> Rule:
    """One array, untouched."""
    return Rule((ours,), (theirs,), SAME, layers)


def conv(ours: str, theirs: str, *, bias: bool = True) -> list[Rule]:
    """A 2-D convolution: kernel (h, w, I, O) and bias."""
    rules = [Rule((f"{ours}/kernel",), (f"{theirs}.weight",), CONV)]
    if bias:
        rules.append(same(f"{ours}/bias", f"{theirs}.bias"))
    return rules


def expected_shapes(
    rules: Iterable[Rule], shapes: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Their key -> shape, for our parameters of these shapes."""
    expected: dict[str, Shape] = {}
    for rule in rules:
        stacked = rule.layers is not None
        blanks = tuple(
            np.broadcast_to(np.float32(0), shapes[name][1 if stacked else 0 :])
            for name in rule.ours
        )
        wanted = [a.shape for a in rule.op.to_theirs(blanks)]
        for keys in rule.layer_keys():
            expected.update(zip(keys, wanted, strict=True))
    return expected


def check(
    found: Mapping[str, Shape],
    rules: list[Rule],
    shapes: Mapping[str, Shape],
    *,
    path: Any,
    layout: str,
    ignore: Iterable[str] = (),
) -> None:
    """Compares keys and shapes before a single number is read.

    Args:
      found: their key -> shape, as the file has it.
      rules, shapes: the layout, and our names -> shapes.
      path, layout: for the message.
      ignore: regular expressions of keys that may be there.

    Raises:
      UserError: that counts the missing, unexpected and misshapen keys and
        names the first few of each.
    """
    expected = expected_shapes(rules, shapes)
    known = re.compile("|".join(ignore) or r"(?!)")
    missing = [key for key in expected if key not in found]
    extra = [k for k in found if k not in expected and not known.search(k)]
    misshapen = [
        f"{key} {tuple(found[key])}, not {expected[key]}"
        for key in expected
        if key in found and tuple(found[key]) != expected[key]
    ]
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}"
        + (", ...)" if len(keys) > 3 else ")")
        for what, keys in (
            ("missing", missing),
            ("unexpected", extra),
            ("misshapen", misshapen),
        )
        if keys
    ]
    if parts:
        raise UserError(
            f"{path} is not the {layout} checkpoint it looks like: keys "
            f"{'; '.join(parts)}; nothing was loaded"
        )


def load(
    state: Mapping[str, np.ndarray],
    rules: Iterable[Rule],
    shapes: Mapping[str, Shape],
    *,
    path: Any,
) -> dict[str, np.ndarray]:
    """Their arrays -> ours, float32; one layer in flight at a time.

    Args:
      state: key -> array of any float dtype, read when asked for.
      rules, shapes: the layout and our shapes, already checked.
      path: for the message.

    Raises:
      UserError: where a weight is not finite.
    """
    loaded: dict[str, np.ndarray] = {}
    for rule in rules:
        targets = [np.empty(shapes[name], np.float32) for name in rule.ours]
        for layer, keys in enumerate(rule.layer_keys()):
            theirs = tuple(state[key] for key in keys)
            if any(array.dtype.kind in "iub" for array in theirs):
                raise UserError(
                    f"{path} holds whole numbers where weights should be "
                    f"({', '.join(keys)}); nothing was loaded"
                )
            arrays = rule.op.to_ours(theirs)
            for target, array in zip(targets, arrays, strict=True):
                if not np.isfinite(array).all():
                    raise UserError(
                        f"{path} holds NaN or infinite weights "
                        f"({', '.join(keys)}); nothing was loaded"
                    )
                place = target if rule.layers is None else target[layer]
                place[...] = array
        loaded.update(zip(rule.ours, targets, strict=True))
    return loaded


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: its shape now, its numbers when asked for."""

    shape: Shape
    read: Callable[[], np.ndarray]


def save(
    parameters: Mapping[str, np.ndarray], rules: Iterable[Rule]
) -> Iterator[tuple[str, Tensor]]:
    """Ours -> (their key, tensor), made one at a time when it is written."""
    shapes = {name: array.shape for name, array in parameters.items()}
    for rule in rules:
        expected = expected_shapes([rule], shapes)
        for layer, keys in enumerate(rule.layer_keys()):
            for position, key in enumerate(keys):
                yield (
                    key,
                    Tensor(
                        expected[key],
                        _reader(parameters, rule, layer, position),
                    ),
                )


def _reader(parameters, rule: Rule, layer: int, position: int):
    def read() -> np.ndarray:
        stacks = [parameters[name] for name in rule.ours]
        if rule.layers is not None:
            # On the device, so that only this layer travels.
            stacks = [stack[layer] for stack in stacks]
        arrays = tuple(np.asarray(stack) for stack in stacks)
        return np.ascontiguousarray(rule.op.to_theirs(arrays)[position])

    return read
