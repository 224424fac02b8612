"""What a step spends its FLOPs on, remat's second passes among it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.stacking import REMAT_POLICIES
from i2i_prior.scaling.step_flops import recomputed_macs, step_flops

# Wide enough that products drown what is not counted; a scan that is unrolled
# is counted whole.
WIDE = DiTConfig(
    depth=2, width=768, heads=4, patch=2, input_size=16, scan_unroll=2
)
TOKENS = 40


def gradient_macs(config: DiTConfig) -> float:
    """Multiply-adds that XLA counts; nothing is compiled or allocated."""
    functional, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))

    def gradient(parameters, x, t, tokens):
        def loss(parameters):
            return functional.merge(parameters)(x, t, tokens).sum()

        return jax.grad(loss)(parameters)

    shapes = ((1, 16, 16, 4), (1,), (1, TOKENS, config.width))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(gradient).lower(functional.shapes(), *arrays)
    return lowered.cost_analysis()["flops"] / 2


@pytest.mark.parametrize("block", ["lumos", "modern"])
def test_remat_against_xla(block):
    """Each policy computes again what is said, to 2 % of a forward pass."""
    config = dataclasses.replace(WIDE, block=block)
    once = gradient_macs(config)
    full = recomputed_macs(dataclasses.replace(config, remat="full"), TOKENS)
    for remat in REMAT_POLICIES:
        changed = dataclasses.replace(config, remat=remat)
        again = gradient_macs(changed) - once
        said = recomputed_macs(changed, TOKENS)
        assert again / full == pytest.approx(said / full, abs=0.02), remat


def test_what_remat_computes_again(tiny):
    flops = {
        remat: step_flops(tiny(f"model.remat={remat}"))
        for remat in ("none", "hidden", "attention", "full")
    }
    again = [flops[remat].recomputed for remat in flops]
    assert again == sorted(again)
    assert again[0] == 0
    # Useful work is the same, and three passes and one make four.
    assert len({f.model for f in flops.values()}) == 1
    assert flops["full"].prior / 3 > flops["full"].recomputed
    none = flops["none"]
    assert flops["full"].executed(1, 1) > none.executed(1, 1) > none.model
    # Attention is all the rest of what widths do not pad.
    heads = none.executed(1, 2) - none.executed(1, 1)
    widths = none.executed(2, 1) - none.executed(1, 1)
    assert heads + widths == pytest.approx(none.executed(1, 1))
    assert heads == pytest.approx(none.attention * 9 / 8)


def test_the_frozen_autoencoder_is_part_of_the_step(tiny):
    without = step_flops(tiny("data.image_size=64"))
    latents = tiny(
        "data.image_size=64",
        "autoencoder.kind=sd",
        "autoencoder.weights=random",
    )
    latents.model.patch = 1
    counted = step_flops(latents)
    assert without.autoencoder == 0
    # 8 images of 64 pixels; see test_flops for one.
    assert counted.autoencoder == pytest.approx(8 * 2 * 8.46e9, rel=0.01)
    assert counted.model == (
        counted.prior + counted.encoder + counted.autoencoder
    )
