"""Rules between our parameters and the keys of a torch state dict.

A layout is a list of `Rule`s. A rule maps some of our parameters (names of
`models.functional`) to some keys by an operation that only moves numbers, in
both directions, so torch -> JAX -> torch is exact to the bit. `{i}` in a key
stands for the layer; our arrays of such a rule have a leading layer axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import LazyTensor, Shape
from i2i_prior.interop.files.state_dicts import StateDict

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Op:
    """Operation on the arrays of one layer, and its inverse."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Rule:
    """Parameters of ours, keys of a file, and the operation between them.

    Attributes:
      ours: our names.
      theirs: keys of the file, with `{i}` for the layer where there is one.
      op: between the arrays of both, in this order.
      first, layers: layers first .. first + layers - 1 of the file are our
        0 .. layers - 1; layers is None for a weight outside the layers.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    op: Op
    layers: int | None = None
    first: int = 0

    def layer_keys(self) -> list[tuple[str, ...]]:
        """Returns the keys of the file, a tuple for each layer."""
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
    """Reshape between two shapes."""
    return Op(
        _each(lambda a: a.reshape(ours)), _each(lambda a: a.reshape(theirs))
    )


def compose(first: Op, second: Op) -> Op:
    """Composition: towards ours `first`, then `second`."""
    return Op(
        lambda arrays: second.to_ours(first.to_ours(arrays)),
        lambda arrays: first.to_theirs(second.to_theirs(arrays)),
    )


def _join(arrays: Arrays) -> Arrays:
    return (np.concatenate(arrays, axis=0),)


def concatenated(count: int) -> Op:
    """Concatenation of `count` arrays of the file, along their axis 0."""
    return Op(_join, lambda arrays: tuple(np.split(arrays[0], count)))


def split(count: int) -> Op:
    """Split of an array of the file into `count`, along its axis 0."""
    return Op(lambda arrays: tuple(np.split(arrays[0], count)), _join)


def linear(
    ours: str | tuple[str, ...],
    theirs: str | tuple[str, ...],
    *,
    layers: int | None = None,
    bias: bool = True,
) -> list[Rule]:
    """Rules of a linear layer, or of layers that are fused on one side.

    Args:
      ours, theirs: names without `/kernel` and `.weight`; several names on
        one side are fused on the other, in this order.
      layers: number of layers, for names with `{i}`.
      bias: whether there is one.
    """
    here = (ours,) if isinstance(ours, str) else ours
    there = (theirs,) if isinstance(theirs, str) else theirs
    fuse = SAME
    if len(there) > len(here):
        fuse = concatenated(len(there))
    elif len(here) > len(there):
        fuse = split(len(here))
    pairs = [("kernel", "weight", compose(fuse, LINEAR))]
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
    """Rules of a norm: gain, bias <-> weight, bias."""
    return [
        same(f"{ours}/gain", f"{theirs}.weight", layers=layers),
        same(f"{ours}/bias", f"{theirs}.bias", layers=layers),
    ]


def same(ours: str, theirs: str, *, layers: int | None = None) -> Rule:
    """Rule of an array that is copied."""
    return Rule((ours,), (theirs,), SAME, layers)


def conv(ours: str, theirs: str, *, bias: bool = True) -> list[Rule]:
    """Rules of a 2-D convolution: kernel (h, w, I, O) and bias."""
    rules = [Rule((f"{ours}/kernel",), (f"{theirs}.weight",), CONV)]
    if bias:
        rules.append(same(f"{ours}/bias", f"{theirs}.bias"))
    return rules


def expected_shapes(
    rules: Iterable[Rule], shapes: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Returns key -> shape in the file, for our parameters of these shapes."""
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


def read(
    state: StateDict,
    rules: list[Rule],
    structs: Mapping[str, Any],
    *,
    layout: str,
    ignore: Iterable[str] = (),
    cast: Callable[[str, np.ndarray], Any] = lambda name, array: array,
) -> dict[str, Any]:
    """Reads a state dict as our parameters, one layer at a time.

    Keys and shapes are compared before a number is read.

    Args:
      state: an opened file, of any float dtypes.
      rules: the layout.
      structs: our name -> struct with a shape, for each of our parameters.
      layout: its name, for messages.
      ignore: regular expressions of further keys that are allowed.
      cast: (name, float32 array) -> array to keep.

    Returns:
      our name -> array, float32 without `cast`.

    Raises:
      UserError: keys are missing, unexpected or misshapen, with their counts
        and the first few of each; or a weight is an integer or not finite.
    """
    shapes = {name: struct.shape for name, struct in structs.items()}
    _check(state, expected_shapes(rules, shapes), layout, ignore)
    parameters = {}
    for rule in rules:
        for name, array in _read_rule(state, rule, shapes).items():
            parameters[name] = cast(name, array)
    return parameters


def _check(
    state: StateDict,
    expected: Mapping[str, Shape],
    layout: str,
    ignore: Iterable[str],
) -> None:
    """Compares keys and shapes of a file with those of a layout."""
    found = state.shapes
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
            f"{state.path} is not the {layout} checkpoint it looks like: keys "
            f"{'; '.join(parts)}; nothing was loaded"
        )


def _read_rule(
    state: StateDict, rule: Rule, shapes: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """Reads the parameters of one rule, float32."""
    targets = [np.empty(shapes[name], np.float32) for name in rule.ours]
    for layer, keys in enumerate(rule.layer_keys()):
        theirs = tuple(state[key] for key in keys)
        problem = ""
        if any(array.dtype.kind in "iub" for array in theirs):
            problem = "integers where weights should be"
        arrays = () if problem else rule.op.to_ours(theirs)
        if not all(np.isfinite(array).all() for array in arrays):
            problem = "NaN or infinite weights"
        if problem:
            raise UserError(
                f"{state.path} holds {problem} ({', '.join(keys)}); nothing "
                "was loaded"
            )
        for target, array in zip(targets, arrays, strict=True):
            target[... if rule.layers is None else layer] = array
    return dict(zip(rule.ours, targets, strict=True))


def save(
    parameters: Mapping[str, np.ndarray], rules: Iterable[Rule]
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields (key, tensor) of a file; each tensor is made when it is read."""
    shapes = {name: array.shape for name, array in parameters.items()}
    for rule in rules:
        expected = expected_shapes([rule], shapes)
        for layer, keys in enumerate(rule.layer_keys()):
            for position, key in enumerate(keys):
                read = partial(_convert, parameters, rule, layer, position)
                yield key, LazyTensor(expected[key], read)


def _convert(
    parameters: Mapping[str, np.ndarray], rule: Rule, layer: int, position: int
) -> np.ndarray:
    """Returns one array of the file, of one layer of a rule."""
    stacks = [parameters[name] for name in rule.ours]
    if rule.layers is not None:
        # On the device, so that only this layer is transferred.
        stacks = [stack[layer] for stack in stacks]
    arrays = tuple(np.asarray(stack) for stack in stacks)
    return np.ascontiguousarray(rule.op.to_theirs(arrays)[position])
