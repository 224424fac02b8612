"""FLOPs of a step by network, remat's second passes among them."""

from __future__ import annotations

import jax
import pytest

from i2i_prior.flops.cost import step_flops, training_flops
from i2i_prior.flops.networks import recomputed_macs
from i2i_prior.flops.trace import count_macs
from i2i_prior.models.dit import DiT, token_count
from i2i_prior.models.functional import make_functional
from i2i_prior.models.scan import REMAT_POLICIES
from i2i_prior.tasks.resolve import resolve
from tests.flops.test_networks import count_dit, count_vit, dit_inputs

ONE_TOKEN = (
    *("encoder.kind=frozen", "encoder.weights=random"),
    *("model.block=lumos", "model.one_token=true"),
    *("conditioner.expand=1", "conditioner.null=random"),
)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
@pytest.mark.parametrize("options", [ONE_TOKEN, ("model.block=modern",)])
def test_remat(tiny, options, remat):
    """Each policy recomputes what it does not keep, product for product."""
    config = tiny(*options, f"model.remat={remat}", "model.depth=3")
    shapes = resolve(config)
    dit, tokens = shapes.dit, shapes.conditioner.tokens
    functional, _ = make_functional(lambda rngs: DiT(dit, rngs=rngs))
    x, t, conditions = dit_inputs(dit, tokens)

    def loss(parameters, tokens, x, t):
        return functional.merge(parameters)(x, t, tokens).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    given = conditions["tokens"]
    macs = count_macs(gradient, functional.shapes(), given, x, t)
    # Latent and timestep need no gradient.
    inputs = token_count(dit) * dit.patch**2 * dit.channels + 256
    needed = 3 * count_dit(dit, tokens)[1] - inputs * dit.width
    assert macs - needed == recomputed_macs(config)


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
    shapes = resolve(tiny())
    _, encoder = count_vit(shapes.encoder, shapes.view_size)
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
