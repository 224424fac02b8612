"""Schedules, the decay mask, and AdamW against PyTorch's."""

from __future__ import annotations

import math

import jax
import numpy as np
import optax
import pytest

from i2i_prior.config import default_config
from i2i_prior.tasks.registry import make_task
from i2i_prior.training.optimizer import (
    decay_mask,
    make_optimizer,
    make_schedule,
)
from i2i_prior.training.train_step import init_state


def optim(**values):
    section = default_config().optim
    section.update(values)
    return section


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_warm_up_is_linear_and_begins_above_zero(name):
    section = optim(learning_rate=0.5, warmup_steps=10, schedule=name)
    schedule = make_schedule(section, 110)
    rates = [float(schedule(step)) for step in range(11)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[10] == pytest.approx(0.5)
    assert np.diff(rates) == pytest.approx([0.045] * 10, abs=1e-6)


def test_schedules_at_known_steps():
    def rates(name):
        section = optim(
            learning_rate=0.5, warmup_steps=10, schedule=name, final_ratio=0.2
        )
        schedule = make_schedule(section, 110)
        return [float(schedule(step)) for step in (10, 35, 60, 110, 200)]

    assert rates("constant") == pytest.approx([0.5] * 5)
    assert rates("linear") == pytest.approx([0.5, 0.4, 0.3, 0.1, 0.1])
    quarter = 0.1 + 0.4 * (1 + math.cos(math.pi / 4)) / 2
    assert rates("cosine") == pytest.approx([0.5, quarter, 0.3, 0.1, 0.1])


def test_no_warm_up_and_a_run_shorter_than_it():
    schedule = make_schedule(optim(learning_rate=0.5, warmup_steps=0), 10)
    assert float(schedule(0)) == pytest.approx(0.5)
    section = optim(learning_rate=0.5, warmup_steps=10, schedule="cosine")
    schedule = make_schedule(section, 5)
    assert 0 < float(schedule(4)) < 0.5


@pytest.fixture(scope="module")
def names(tiny):
    """Trained and frozen names of a run that freezes all that can be."""

    def split(*overrides):
        task = make_task(tiny(*overrides))
        return jax.eval_shape(task.init, jax.random.key(0))

    return split


def test_decay_applies_to_kernels_only(names):
    trained, _ = names()
    mask = decay_mask(trained)
    # Stacked biases are 2-D: the number of axes is no guide.
    assert mask["encoder/blocks/attention/qkv/kernel"]
    assert not mask["encoder/blocks/attention/qkv/bias"]
    decayed = {name for name, decays in mask.items() if decays}
    assert decayed == {name for name in trained if name.endswith("/kernel")}
    spared = {name.rpartition("/")[2] for name in set(mask) - decayed}
    assert spared == {"bias", "gain", "cls", "positions", "null"}


ONE_TOKEN = "conditioner.expand=1", "model.one_token=true"
FROZEN = "encoder.kind=frozen", "encoder.weights=random"


@pytest.mark.parametrize(
    ("overrides", "patterns"),
    [
        ((), ()),
        (ONE_TOKEN, ("blocks/cross_attention/q", "blocks/cross_attention/k")),
        (
            (*ONE_TOKEN, "model.block=lumos"),
            ("blocks/cross_attention/q", "blocks/cross_attention/k"),
        ),
        (FROZEN, ("encoder/",)),
        (("conditioner.null=random",), ("conditioner/null",)),
    ],
)
def test_what_gets_no_gradient_is_in_no_optimizer_state(
    tiny, names, overrides, patterns
):
    config = tiny(*overrides)
    task = make_task(config)
    transform = make_optimizer(config.optim, 10)
    state = jax.eval_shape(
        lambda key: init_state(task, transform, key), jax.random.key(0)
    )
    everything = set(task.functional.shapes())
    for pattern in patterns:
        assert any(pattern in name for name in state.frozen)
    assert set(state.frozen) == {
        name for name in everything if any(p in name for p in patterns)
    }
    assert set(state.params) == everything - set(state.frozen)
    assert set(state.ema) == set(state.params)
    for moment in ("mu", "nu"):
        found = optax.tree.get(state.opt_state, moment)
        assert set(found) == set(state.params)
        assert {n: a.shape for n, a in found.items()} == {
            n: a.shape for n, a in state.params.items()
        }


@pytest.mark.parametrize("clip", [0.0, 1.5])
def test_adamw_is_torchs(clip):
    torch = pytest.importorskip("torch")
    from torch.optim.adamw import adamw

    section = optim(
        learning_rate=3e-2,
        warmup_steps=3,
        schedule="cosine",
        beta1=0.8,
        beta2=0.95,
        epsilon=1e-3,
        weight_decay=0.1,
        clip_norm=clip,
    )
    rng = np.random.default_rng(0)
    shapes = {"a/kernel": (4, 3), "a/bias": (2, 3), "b/gain": (5,)}
    start = {n: rng.standard_normal(s, "f4") for n, s in shapes.items()}
    transform = make_optimizer(section, 6)
    schedule = make_schedule(section, 6)

    ours, state = start, transform.init(start)
    theirs = {n: torch.tensor(a) for n, a in start.items()}
    counts = {n: torch.tensor(0.0) for n in theirs}
    first = {n: torch.zeros_like(p) for n, p in theirs.items()}
    second = {n: torch.zeros_like(p) for n, p in theirs.items()}
    for step in range(6):
        grads = {n: rng.standard_normal(s, "f4") for n, s in shapes.items()}
        updates, state = transform.update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        wanted = {n: torch.tensor(g) for n, g in grads.items()}
        if clip:
            norm = torch.stack([g.norm() for g in wanted.values()]).norm()
            assert norm > clip  # so that it matters
            wanted = {n: g * clip / norm for n, g in wanted.items()}
        for name, parameter in theirs.items():
            adamw(
                [parameter],
                [wanted[name]],
                [first[name]],
                [second[name]],
                [],
                [counts[name]],
                amsgrad=False,
                maximize=False,
                beta1=0.8,
                beta2=0.95,
                eps=1e-3,
                lr=float(schedule(step)),
                weight_decay=0.1 if name.endswith("/kernel") else 0.0,
            )
            np.testing.assert_allclose(ours[name], parameter, 1e-5, 1e-6)
