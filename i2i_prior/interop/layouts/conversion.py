"""Reading and writing of state dicts by the rules of a layout.

One layer of one rule is in memory at a time. See `mapping` for the rules.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import LazyTensor, Shape
from i2i_prior.interop.files.state_dicts import StateDict
from i2i_prior.interop.layouts.mapping import Rule


def expected_shapes(
    rules: Iterable[Rule], arrays: Mapping[str, Any]
) -> dict[str, Shape]:
    """Returns key -> shape in the file, of arrays or structs with a shape."""
    expected: dict[str, Shape] = {}
    for rule in rules:
        outer = 0 if rule.layers is None else 1
        blanks = tuple(
            np.broadcast_to(np.float32(0), arrays[name].shape[outer:])
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

    Keys and shapes are compared before a number is read. The file may have any
    float dtypes. `structs` has a struct with a shape for each of our
    parameters; `layout` is the name, for messages; `ignore` has regular
    expressions of further keys that are allowed; `cast` makes the array to keep
    of a name and a float32 array.

    UserError where keys are missing, unexpected or misshapen, with their counts
    and the first few of each; or a weight is an integer or not finite.
    """
    _check(state, expected_shapes(rules, structs), layout, ignore)
    parameters = {}
    for rule in rules:
        for name, array in _read_rule(state, rule, structs):
            parameters[name] = cast(name, array)
    return parameters


def _check(
    state: StateDict,
    expected: Mapping[str, Shape],
    layout: str,
    ignore: Iterable[str],
) -> None:
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
    state: StateDict, rule: Rule, structs: Mapping[str, Any]
) -> Iterable[tuple[str, np.ndarray]]:
    targets = [np.empty(structs[name].shape, np.float32) for name in rule.ours]
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
    return zip(rule.ours, targets, strict=True)


def save(
    parameters: Mapping[str, np.ndarray], rules: Iterable[Rule]
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields (key, tensor) of a file; each tensor is made when it is read."""
    for rule in rules:
        expected = expected_shapes([rule], parameters)
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
