"""A family of blocks that only this file knows, in every part of the system."""

from __future__ import annotations

import functools
import re

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from i2i_prior.errors import UserError
from i2i_prior.flops.cost import run_cost
from i2i_prior.flops.networks import networks
from i2i_prior.models.blocks import BLOCKS
from i2i_prior.models.blocks.modulation import AdaFinalLayer, scatter
from i2i_prior.models.blocks.registry import Block, layer_roles, register
from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.layers import Linear, SwiGlu, rms_norm
from i2i_prior.models.mup import update_factor
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.presets import preset
from i2i_prior.parallel.mesh import batch_sharding
from i2i_prior.parallel.roles import COLUMN, ROW, declare_roles, role_of
from i2i_prior.training.setup import build, to_device


class MeanBlock(nnx.Module):
    """Adds an MLP of each token, and a map of the mean over all of them."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width = config.width
        options = {"rngs": rngs, "precision": PRECISIONS[config.precision]}
        self.mean_in = Linear(width, 2 * width, **options)
        self.mean_out = Linear(2 * width, width, **options)
        self.mlp = SwiGlu(width, 2 * width, **options)

    def __call__(self, h, time, tokens, mask):
        """See `registry.Block`."""
        mean = rms_norm(h).mean(1) + time + tokens.mean(1)
        with jax.named_scope("mean"):
            mean = self.mean_out(jax.nn.silu(self.mean_in(mean)))
        return scatter(h + mean[:, None] + self.mlp(rms_norm(h)))


@pytest.fixture
def family(monkeypatch):
    """The name of the family, for one test."""
    monkeypatch.setattr("i2i_prior.parallel.roles._LAYERS", {})
    for name in list(BLOCKS):
        monkeypatch.delitem(BLOCKS, name)
    roles = {"mean_in": COLUMN, "mean_out": ROW, **layer_roles(mlp=SwiGlu)}
    final = functools.partial(AdaFinalLayer, norm=rms_norm)
    register("mean", Block(MeanBlock, final, roles, idle="(?!)"))
    yield "mean"
    del BLOCKS["mean"]


def test_a_new_block_is_trained_sharded_scaled_and_counted(
    tiny, family, meshes, batches
):
    config = tiny(
        *(f"model.block={family}", "model.mup_base_width=16"),
        "model.remat=full",
    )
    program = build(config, meshes["tensor"])
    state = program.initialise()
    kernel = "dit/blocks/mean_in/kernel"
    array = state.params[kernel]
    assert array.shape == (2, 32, 64)
    assert array.sharding.spec == P(None, ("fsdp", "context"), "tensor")
    before = np.asarray(array)
    batch = to_device(batches[0], batch_sharding(meshes["tensor"]))
    state, metrics = program.step(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    assert not np.array_equal(state.params[kernel], before)
    assert update_factor(kernel, 0.5) == 0.5
    assert update_factor("dit/blocks/mlp/out/kernel", 0.5) == 0.5

    width, tokens = config.model.width, 4
    cost = run_cost(config)
    assert cost.parameters == sum(a.size for a in state.params.values())
    parts = networks(config).by_name["dit"].parts
    assert parts["blocks/mean"].macs == 2 * 2 * 2 * width**2
    assert parts["blocks/mlp"].macs == 2 * tokens * 3 * 2 * width**2
    # The last product of each branch is only added: its backward pass does
    # not need the result.
    again = 2 * width**2 + tokens * 2 * 2 * width**2
    assert cost.recomputed_flops == 2 * config.model.depth * again
    assert preset(f"{family}_s2")["block"] == family


def test_layers_of_every_family_have_a_role():
    for block in BLOCKS:
        config = DiTConfig(block=block, depth=1, width=32, heads=2)
        functional, _ = make_functional(
            lambda rngs, config=config: DiT(config, rngs=rngs)
        )
        kernels = [
            f"dit/{name}"
            for name in functional.shapes()
            if re.fullmatch(r"blocks/.*/kernel", name)
        ]
        assert len(kernels) > 5
        assert all(role_of(name).hidden for name in kernels), block


def test_a_layer_has_one_role():
    with pytest.raises(UserError, match="mlp/fc1 has two roles"):
        declare_roles({"mlp/fc1": ROW})
