"""What a step spends its FLOPs on, remat's second passes among it."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from i2i_prior.flops.cost import training_flops
from i2i_prior.flops.networks import (
    dit_inputs,
    dit_parts,
    recomputed_macs,
    vit_parts,
)
from i2i_prior.flops.step_flops import step_flops
from i2i_prior.flops.trace import count_macs, total
from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.scan import REMAT_POLICIES
from i2i_prior.tasks.resolve import resolve

SMALL = DiTConfig(depth=3, width=48, heads=4, patch=2, input_size=8)


@pytest.mark.parametrize(("block", "tokens"), [("lumos", 1), ("modern", 5)])
def test_remat(block, tokens):
    """Each policy computes again what is said, product for product."""
    for remat in REMAT_POLICIES:
        config = dataclasses.replace(
            SMALL, block=block, remat=remat, one_token=tokens == 1
        )
        functional, _ = make_functional(
            lambda rngs, config=config: DiT(config, rngs=rngs)
        )
        x, t, conditions = dit_inputs(config, tokens)

        def loss(parameters, tokens, x, t, functional=functional):
            return functional.merge(parameters)(x, t, tokens).sum()

        gradient = jax.value_and_grad(loss, argnums=(0, 1))
        shapes = functional.shapes(), conditions["tokens"], x, t
        macs = count_macs(gradient, *shapes)
        # Latent and timestep need no gradient.
        inputs = 16 * 16 * config.width + 256 * config.width
        forward = total(dit_parts(config, tokens).values()).macs
        needed = 3 * forward - inputs
        assert macs - needed == recomputed_macs(config, tokens), remat


def test_what_remat_computes_again(tiny):
    flops = {
        remat: step_flops(tiny(f"model.remat={remat}"))
        for remat in ("none", "dots", "hidden", "attention", "full")
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
    # Fused, it makes scores again once: half of a pass.
    assert heads == pytest.approx(none.attention / 3 * 3.5)
    dots = flops["dots"]
    assert dots.executed(1, 1) == pytest.approx(none.executed(1, 1))
    full = flops["full"]
    heads = full.executed(1, 2) - full.executed(1, 1)
    assert heads == pytest.approx(none.attention / 3 * 4.5)


def test_a_frozen_encoder_costs_one_pass(tiny):
    assert training_flops(10, 1) == 2 * 31
    joint = step_flops(tiny()).model
    frozen = step_flops(
        tiny("encoder.kind=frozen", "encoder.weights=random")
    ).model
    encoder = total(vit_parts(resolve(tiny()).encoder).values()).macs
    assert joint - frozen == pytest.approx(8 * 2 * 2 * encoder)
    half = step_flops(tiny("data.batch_size=4")).model
    assert joint == pytest.approx(2 * half)


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
    # 8 images of 64 pixels; see test_networks for one.
    assert counted.autoencoder == pytest.approx(8 * 2 * 8.46e9, rel=0.01)
    assert counted.model == (
        counted.prior + counted.encoder + counted.autoencoder
    )
