"""Rules between our parameters and the keys of a torch state dict.

A layout is a table of names, which `rules_of` turns into `Rule`s. A rule maps
some of our parameters (names of `models.functional`) to some keys by an
operation that only moves numbers, in both directions, so torch -> JAX -> torch
is exact to the bit. `{i}` in a key stands for the layer; our arrays of such a
rule have a leading layer axis.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import Shape, one_line

Arrays = tuple[np.ndarray, ...]
Keys = str | tuple[str, ...]
Names = dict[Keys, Keys]


@dataclass(frozen=True)
class Op:
    """Operation on the arrays of one layer, and its inverse."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Rule:
    """Parameters of ours, keys of a file, and the operation between them."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]  # with `{i}` for the layer, where there is one
    op: Op
    layers: int | None = None  # how many, None outside the layers

    def layer_keys(self) -> list[tuple[str, ...]]:
        """Returns the keys of the file, a tuple for each layer."""
        return [
            tuple(key.format(i=i) for key in self.theirs)
            for i in range(1 if self.layers is None else self.layers)
        ]


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
# Arrays of a module -> theirs; the empty name is an array itself.
_LEAVES = {"": "", "/kernel": ".weight", "/gain": ".weight", "/bias": ".bias"}


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


def rules_of(
    names: Names, arrays: Mapping[str, Any], ops: Mapping[str, Op] | None = None
) -> list[Rule]:
    """Returns the rules of a table of names, in its order.

    Args:
      names: module or array of ours -> that of the file. A module stands for
        its kernel, gain and bias, which torch calls weight and bias; a key
        that ends in `_` is followed by these words without a dot. Several
        names on one side are fused on the other, along torch's axis 0. What
        `arrays` lacks gets no rule.
      arrays: our name -> array or struct with a shape.
      ops: our name -> operation, if it is not a copy, or for a kernel the
        transposition of a linear layer or 2-D convolution.
    """
    rules = []
    for ours, theirs in names.items():
        here = (ours,) if isinstance(ours, str) else ours
        there = (theirs,) if isinstance(theirs, str) else theirs
        for leaf, word in _LEAVES.items():
            named = tuple(name + leaf for name in here)
            keys = tuple((key + word).replace("_.", "_") for key in there)
            if named[0] in arrays:
                shape = arrays[named[0]].shape
                rules.append(_rule(named, keys, shape, ops or {}))
    return rules


def several(key: str, words: Iterable[str]) -> tuple[str, ...]:
    """Returns a key with each of the words in the place of `*`."""
    return tuple(key.replace("*", word) for word in words)


def prefixed(names: Names, prefix: str, but: tuple[str, ...] = ()) -> Names:
    """Returns a table with a prefix before every key, but those of some."""
    return {
        ours: theirs
        if ours in but
        else prefix + theirs
        if isinstance(theirs, str)
        else tuple(prefix + key for key in theirs)
        for ours, theirs in names.items()
    }


def depth(shapes: Iterable[str], stem: str) -> int:
    """Returns the number of layers, whose keys are the stem and a number.

    They are counted, not read from the highest number: a damaged file may name
    layer 99999999. ValueError if there is none.
    """
    layer = re.compile(rf"{re.escape(stem)}(\d+)\.")
    found = {m[1] for key in shapes if (m := layer.match(key))}
    if not found:
        raise ValueError(f"no keys begin with {stem}0")
    return len(found)


@contextlib.contextmanager
def implied_shapes(path: Any, layout: str) -> Iterator[None]:
    """Turns what a missing or misshapen tensor raises while a config is read
    from shapes into one sentence."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        few = isinstance(error, IndexError)
        reason = "a tensor has too few axes" if few else one_line(str(error))
        raise UserError(
            f"{path} looks like {layout}, but its keys do not imply the "
            f"network's shape ({reason}); nothing was loaded"
        ) from error


def _rule(
    ours: tuple[str, ...],
    theirs: tuple[str, ...],
    shape: Shape,
    ops: Mapping[str, Op],
) -> Rule:
    layers = shape[0] if "{i}" in theirs[0] else None
    default = SAME
    if ours[0].endswith("/kernel"):
        rank = len(shape) - (layers is not None)
        default = CONV if rank == 4 else LINEAR
    op = ops.get(ours[0], default)
    if len(ours) != len(theirs):
        op = _fused(op, len(ours), len(theirs))
    return Rule(ours, theirs, op, layers)


def _fused(op: Op, ours: int, theirs: int) -> Op:
    """Adds the fusion of several arrays of one side along torch's axis 0."""

    def parts(arrays: Arrays, count: int) -> Arrays:
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return tuple(np.split(whole, count))

    return Op(
        lambda arrays: op.to_ours(parts(arrays, ours)),
        lambda arrays: parts(op.to_theirs(arrays), theirs),
    )
