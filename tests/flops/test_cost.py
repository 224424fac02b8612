"""A whole config's cost against what is really made, trained and saved."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import jax
import numpy as np
import pytest

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.config import from_flat, load_config
from i2i_prior.flops.cost import run_cost, step_flops
from i2i_prior.flops.trace import count_macs
from i2i_prior.tasks.registry import make_task
from i2i_prior.training.optimizer import make_optimizer
from i2i_prior.training.train_step import init_state
from tests.conftest import ROOT

SMALL_KL = json.dumps(
    {"kind": "kl", "channels": 4, "widths": [8, 16], "blocks": [1, 1]}
    | {"groups": 4, "quant_conv": True}
)
LATENTS = (
    "autoencoder.kind=sd",
    f"autoencoder.shape={SMALL_KL}",
    "data.image_size=16",
)
FROZEN = ("encoder.kind=frozen", "encoder.weights=random")
CONFIGS = {
    "joint": ("conditioner.tokens_from=pyramid", "encoder.view_size=8"),
    "one_token": (
        *FROZEN,
        *LATENTS,
        "autoencoder.weights=random",
        "model.block=lumos",
        "model.one_token=true",
        "conditioner.expand=1",
        "conditioner.null=random",
        "model.remat=full",
    ),
    "cached": (
        *LATENTS,
        "encoder.kind=none",
        "data.cached=true",
        "train.ema_dtype=bfloat16",
        "optim.moment_dtype=bfloat16",
    ),
    "kept_beside_cached": (
        *FROZEN,
        *LATENTS,
        "autoencoder.weights=random",
        "data.cached=true",
        "model.remat=dots",
        "optim.clip_norm=0",
    ),
}


def example(config):
    """One example, as a step reads it, batched."""
    return {
        name: jax.ShapeDtypeStruct((1, *one.shape), one.dtype)
        for name, one in make_task(config).example_spec.items()
    }


def nbytes(tree) -> int:
    return sum(
        math.prod(a.shape) * np.dtype(a.dtype).itemsize
        for a in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config(tiny, name):
    """Numbers, bytes and products, equal to the last one."""
    config = tiny(*CONFIGS[name])
    cost, task, key = run_cost(config), make_task(config), jax.random.key(0)
    transform = make_optimizer(config.optim, config.train.steps)
    state = jax.eval_shape(
        lambda: init_state(task, transform, key, config.train.ema_dtype)
    )
    assert cost.parameters == sum(a.size for a in state.params.values())
    assert cost.frozen_parameters == sum(a.size for a in state.frozen.values())
    assert cost.state_bytes == nbytes(state)
    assert cost.gradient_bytes == nbytes(state.params)
    batch = example(config)
    assert cost.data_bytes == nbytes(batch)

    def step(params, frozen, batch):
        def loss(params):
            draws = task.draw(key, task.shape_of(batch))
            return task.loss({**params, **frozen}, batch, draws)[0].sum()

        return jax.value_and_grad(loss)(params)

    macs = count_macs(step, state.params, state.frozen, batch)
    # What a first layer reads needs no gradient: timesteps, patches of the
    # noisy latent, and of the image where the encoder is trained, whose
    # average pyramid is a product with what is no parameter either.
    dit, encoder = config.model, config.encoder
    patch = dit.patch**2 * task.shapes.latent.channels
    unneeded = 256 * dit.width + cost.tokens * patch * dit.width
    if encoder.kind == "joint":
        unneeded += 4 * 3 * encoder.patch**2 * encoder.width
    if config.conditioner.tokens_from == "pyramid":
        unneeded += 21 * 4 * encoder.width
    elif encoder.kind != "joint" and config.conditioner.null == "random":
        unneeded += encoder.width * dit.width
    assert cost.total_flops == 2 * (macs + unneeded)


def test_parts_of_the_whole(tiny):
    """Of one config, what is cached, trained along or made again."""
    online = run_cost(tiny(*FROZEN, *LATENTS, "autoencoder.weights=random"))
    assert online.encoder_flops > 0 < online.autoencoder_flops
    cached = run_cost(tiny(*CONFIGS["kept_beside_cached"]))
    assert cached.encoder_flops == cached.autoencoder_flops == 0
    assert cached.training_flops == online.training_flops
    assert cached.frozen_parameters == online.frozen_parameters
    assert cached.recomputed_flops > 0
    joint = run_cost(tiny())
    assert joint.training_flops == 3 * joint.forward_flops
    assert joint.training_flops == joint.total_flops
    assert joint.condition_tokens == 2
    assert joint.tokens == 4
    frozen = run_cost(tiny(*FROZEN))
    trained_along = joint.training_flops - frozen.training_flops
    assert trained_along == 3 * frozen.encoder_flops
    long = run_cost(tiny("data.image_size=32"))
    assert long.attention_flops > 15 * joint.attention_flops


def test_views_of_another_size(tiny):
    """The encoder is counted on what it sees."""
    seen = run_cost(tiny(*FROZEN, "encoder.view_size=16"))
    usual = run_cost(tiny(*FROZEN))
    assert 3.4 < seen.encoder_flops / usual.encoder_flops < 4
    assert seen.parameters == usual.parameters


def test_a_step_is_a_batch_of_examples(tiny):
    config = tiny(*CONFIGS["one_token"])
    cost, step = run_cost(config), step_flops(config)
    assert step.recomputed == 8 * cost.recomputed_flops > 0
    assert step.model == 8 * cost.model_flops


def test_a_saved_run(run_directory):
    """The arrays of its checkpoint, and what it says of itself."""
    stored = json.loads((run_directory / "config.json").read_text())["config"]
    cost = run_cost(from_flat(stored))
    reader = Checkpoints(run_directory, read_only=True)
    step = reader.latest()
    items = reader._manager.item_metadata(step)
    arrays = [*items["ema"].values(), *items["training"].values()]
    reader.close()
    assert cost.checkpoint_bytes == nbytes(arrays)
    metadata = json.loads((run_directory / "metadata.json").read_text())
    assert metadata["cost"] == dataclasses.asdict(cost)
    assert metadata["trained_parameters"] == cost.parameters
    assert metadata["frozen_parameters"] == cost.frozen_parameters
    assert metadata["flops_per_step"] == 8 * cost.model_flops


def test_it_is_quick():
    """A thousand runs of few shapes are planned in two seconds."""
    config = load_config(str(ROOT / "configs/lumos_xl2.py"))
    times = []
    for _ in range(20):
        begun = time.process_time()
        run_cost(config)
        times.append(time.process_time() - begun)
    assert min(times) < 1e-3
