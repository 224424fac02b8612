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
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import nnx
from jax.interpreters import partial_eval
from jax.sharding import AbstractDevice, AbstractMesh

from i2i_prior.models.functional import make_functional
from i2i_prior.parallel.mesh import AXES


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a network, on one example.

    Attributes:
      parameters: numbers in its arrays.
      macs: multiply-adds of its forward pass, scores of attention included.
      scores: of `macs`, the products of attention that hold no parameters:
        scores and weighted sums.
      frozen: of `parameters`, those that are never trained.
    """

    parameters: int = 0
    macs: int = 0
    scores: int = 0
    frozen: int = 0

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


Parts = dict[str, Part]  # by scope, as "patch_embed" or "blocks/attention"


def total(parts: Iterable[Part]) -> Part:
    """Sum of parts."""
    return sum(parts, start=Part())


def untrained(part: Part) -> Part:
    """The part with all its parameters frozen."""
    return replace(part, frozen=part.parameters)


def unused(part: Part) -> Part:
    """The part without its products."""
    return replace(part, macs=0, scores=0)


@dataclass(frozen=True)
class Equation:
    """One equation of a trace.

    Attributes:
      scope: `jax.named_scope`s around it, as "blocks/attention/scores".
      macs: multiply-adds over all its executions; 0 where it is no product.
    """

    scope: str
    macs: int


def trace(function: Callable[..., Any], *shapes: Any) -> Iterator[Equation]:
    """Equations of function(*shapes) that its results depend on, in order.

    Args:
      function: any that JAX traces.
      shapes: arguments, trees of `jax.ShapeDtypeStruct`.
    """
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


def count_recomputed(function: Callable[..., Any], *shapes: Any) -> int:
    """Multiply-adds that `jax.checkpoint` adds to a gradient's trace."""
    return sum(
        equation.macs
        for equation in trace(function, *shapes)
        if "rematted_computation" in equation.scope
    )


def count_parts(
    build: Callable[[nnx.Rngs], nnx.Module],
    call: Callable[..., Any],
    *shapes: Any,
    rows: Mapping[str, str] | None = None,
    frozen: str = r"(?!)",
) -> Parts:
    """Parts of a network, in the order of its forward pass.

    Args:
      build: makes the network.
      call: its forward pass on one example, call(network, *inputs).
      shapes: of the inputs.
      rows: first part of a scope or of a parameter's path -> name of the part
        that it belongs to, where that is another; these come first.
      frozen: regular expression of parameters that are never trained.
    """
    functional, _ = make_functional(build)
    parameters = functional.shapes()
    rows = rows or {}
    parts: Parts = {name: Part() for name in rows.values()}

    def add(path: str, part: Part) -> None:
        first, _, rest = path.partition("/")
        name = first
        if first == "blocks":
            name = f"blocks/{rest.partition('/')[0]}"
        name = rows.get(name, name)
        parts[name] = parts.get(name, Part()) + part

    def forward(values: Any, *inputs: Any) -> Any:
        return call(functional.merge(values), *inputs)

    for equation in trace(forward, parameters, *shapes):
        scores = "scores" in equation.scope.split("/")
        macs = equation.macs
        add(equation.scope, Part(macs=macs, scores=macs if scores else 0))
    for path, array in parameters.items():
        size = math.prod(array.shape)
        fixed = size if re.search(frozen, path) else 0
        add(path, Part(size, frozen=fixed))
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
