"""What a layer loop keeps of the kernels it gathers: nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from i2i_prior.models.layers import Mlp
from i2i_prior.models.scan import scan_blocks, stack_blocks
from i2i_prior.parallel.constraints import data_parallel_only, on_mesh

LAYERS, WIDTH, HIDDEN = 3, 32, 64


def scans(jaxpr: Any) -> Iterator[Any]:
    """All scans in a program, those inside others too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from scans(inner)


@pytest.mark.parametrize("place", [contextlib.nullcontext, data_parallel_only])
def test_the_forward_loop_keeps_no_gathered_kernel(meshes, place):
    """Neither that of the prior, nor of an encoder that works per image."""

    @nnx.jit
    def build():
        return stack_blocks(
            lambda rngs: Mlp(WIDTH, HIDDEN, WIDTH, rngs=rngs),
            LAYERS,
            nnx.Rngs(0),
        )

    def loss(blocks, x):
        with on_mesh(meshes["fsdp"]), place():
            h = scan_blocks(
                blocks, lambda h, block: block(h), x, name="encoder/blocks"
            )
        return jnp.square(h).sum()

    x = jnp.ones((8, WIDTH))
    program = jax.make_jaxpr(jax.grad(loss))(build(), x).jaxpr
    forward = [eqn for eqn in scans(program) if not eqn.params["reverse"]]
    assert len(forward) == 1
    kept = [out.aval.shape for out in forward[0].outvars]
    assert (LAYERS, 8, HIDDEN) in kept  # activations are
    assert not any(shape[1:] == (WIDTH, HIDDEN) for shape in kept)
