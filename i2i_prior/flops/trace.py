"""Parameters and multiply-adds of a network, counted from its trace.

The jaxpr of a forward pass holds each matrix product and convolution with its
shapes; the body of a scan counts as often as it runs (XLA's own cost analysis
counts it once). Norms, softmax, activations and sums of embeddings are no
products and count nothing, as in the published GMACs of DiT and Lumos. The
parts of a network are its `jax.named_scope`s and the paths of its parameters.
Nothing is compiled or allocated, and no device is opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.interpreters import partial_eval
from jax.sharding import AbstractDevice, AbstractMesh

from i2i_prior.models.functional import partition
from i2i_prior.parallel.mesh import AXES


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a network, on one example."""

    parameters: int = 0  # numbers in its arrays
    # Multiply-adds of its forward pass, scores of attention included
    macs: int = 0
    # Of `macs`, the products of attention that hold no parameters: scores and
    # weighted sums
    scores: int = 0
    frozen: int = 0  # of `parameters`, those that are never trained

    def __add__(self, other: Part) -> Part:
        """Sum of both."""
        return Part(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.scores + other.scores,
            self.frozen + other.frozen,
        )

    def __mul__(self, count: int) -> Part:
        """The part `count` times, with parameters of their own."""
        return Part(
            self.parameters * count,
            self.macs * count,
            self.scores * count,
            self.frozen * count,
        )


Parts = dict[str, Part]  # by scope, as "dit/final" or "dit/blocks/attention"


def total(parts: Iterable[Part]) -> Part:
    """Sum of parts."""
    return sum(parts, start=Part())


@dataclass(frozen=True)
class Equation:
    """One equation of a trace."""

    scope: str  # `jax.named_scope`s around it, as "dit/blocks/attention/scores"
    macs: int  # multiply-adds over all its executions; 0 where it is no product


def trace(function: Callable[..., Any], *shapes: Any) -> Iterator[Equation]:
    """Equations of function(*shapes) that its results depend on, in order;
    shapes are trees of `jax.ShapeDtypeStruct`."""
    # A CPU that is not opened: the forms of attention that hide their
    # products in a kernel are of GPUs and TPUs.
    cpu = AbstractDevice("cpu", num_cores=None, platform="cpu")
    mesh = AbstractMesh((1,) * len(AXES), AXES, abstract_device=cpu)
    with jax.sharding.use_abstract_mesh(mesh):
        closed = jax.make_jaxpr(function)(*shapes)
    jaxpr, _ = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars)
    )
    return _equations(jaxpr, "", 1)


def count_macs(function: Callable[..., Any], *shapes: Any) -> int:
    """Multiply-adds of function(*shapes)."""
    return sum(equation.macs for equation in trace(function, *shapes))


def group_parts(
    equations: Iterable[Equation],
    parameters: Mapping[str, jax.ShapeDtypeStruct],
    rows: Mapping[str, str] | None = None,
    frozen: Iterable[str] = (),
) -> Parts:
    """Parts of a network or of several, in the order of the forward pass.

    Args:
      equations: of the forward pass.
      parameters: by path.
      rows: scope or path of a part -> name of the part that it belongs to,
        where that is another; these come first.
      frozen: regular expressions of parameters that are never trained.
    """
    rows = rows or {}
    parts: Parts = {name: Part() for name in rows.values()}

    def add(path: str, part: Part) -> None:
        # "dit/final", "dit/blocks/mlp", or without the network's name.
        match = re.match(r"(\w+/)?(blocks/\w+|\w+)", path)
        name = match[0] if match else ""
        name = rows.get(name, name)
        parts[name] = parts.get(name, Part()) + part

    for equation in equations:
        scores = "scores" in equation.scope.split("/")
        macs = equation.macs
        add(equation.scope, Part(macs=macs, scores=macs if scores else 0))
    _, fixed = partition(dict(parameters), frozen)
    for path, array in parameters.items():
        add(path, Part(array.size, frozen=array.size * (path in fixed)))
    return {name: part for name, part in parts.items() if part != Part()}


def _equations(jaxpr: Any, scope: str, times: int) -> Iterator[Equation]:
    for equation in jaxpr.eqns:
        own = str(equation.source_info.name_stack)
        path = f"{scope}/{own}".strip("/")
        called = list(_called(equation.params))
        macs = {
            "dot_general": _product_macs,
            "conv_general_dilated": _convolution_macs,
        }.get(equation.primitive.name, lambda _: 0)(equation)
        yield Equation(path, macs * times)
        for inner in called:
            count = times * equation.params.get("length", 1)
            yield from _equations(inner, path, count)


def _called(parameters: dict[str, Any]) -> Iterator[Any]:
    """Jaxprs of a call, a scan or a rematerialised part."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in parameters:
            yield getattr(parameters[name], "jaxpr", parameters[name])


def _product_macs(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    inner = math.prod(left[axis] for axis in contracted)
    return math.prod(equation.outvars[0].aval.shape) * inner


def _convolution_macs(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    taps = math.prod(kernel) // kernel[outputs]
    return math.prod(equation.outvars[0].aval.shape) * taps
