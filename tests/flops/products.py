"""A second way to count, that knows nothing of networks.

Every matrix product and convolution of a traced function, a scan's as often
as it runs. Nothing is compiled or allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from i2i_prior.models.dit import DiTConfig


def traced_macs(function: Callable[..., Any], *shapes: Any) -> int:
    """Multiply-adds of function(*shapes); what no output needs is left out."""
    closed = jax.make_jaxpr(function)(*shapes)
    jaxpr, _ = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars)
    )
    return _macs(jaxpr)


def xla_macs(function: Callable[..., Any], *shapes: Any) -> float:
    """Half the FLOPs of XLA's cost analysis: a scan's body counts once."""
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"] / 2


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """An array that is not there."""
    return jax.ShapeDtypeStruct(shape, dtype)


def dit_inputs(config: DiTConfig, tokens: int) -> tuple[Any, Any, dict]:
    """(x, timestep, doors) that a DiT is called with, for one image."""
    side = config.input_size
    doors = {}
    if config.cross_attention:
        doors["tokens"] = array(1, tokens, config.width)
    if config.classes:
        doors["pooled"] = array(1, dtype=jnp.int32)
    elif config.pooled_width:
        doors["pooled"] = array(1, config.pooled_width)
    if config.concat_channels:
        doors["concat"] = array(1, side, side, config.concat_channels)
    if config.size_conditions:
        doors |= {"size": array(1, 2), "aspect": array(1, 1)}
    return array(1, side, side, config.channels), array(1), doors


def _macs(jaxpr: Any) -> int:
    count = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            count += _product(equation)
        elif name == "conv_general_dilated":
            count += _convolution(equation)
        else:
            inner = sum(map(_macs, _called(equation.params)))
            count += inner * equation.params.get("length", 1)
    return count


def _called(parameters: dict[str, Any]) -> list[Any]:
    """The jaxprs of a call, a scan or a rematerialised piece."""
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    found = [parameters[name] for name in names if name in parameters]
    return [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in found]


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    inner = math.prod(left[axis] for axis in contracted)
    return math.prod(equation.outvars[0].aval.shape) * inner


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    taps = math.prod(kernel) // kernel[outputs]
    return math.prod(equation.outvars[0].aval.shape) * taps
