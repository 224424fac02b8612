"""The train step: accumulation, EMA, draws, what moves and what does not."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from i2i_prior.training.setup import build, to_device
from i2i_prior.training.train_step import ema_decay


def device(mesh, batch):
    from i2i_prior.parallel.mesh import batch_sharding

    return to_device(batch, batch_sharding(mesh))


@pytest.fixture(scope="module")
def steps(programs, fresh, batches, meshes):
    """Three steps on one device: the states (NumPy) and metrics of each."""
    state, seen = fresh("one"), []
    for batch in batches[:3]:
        before = jax.device_get(state)
        state, metrics = programs["one"].step(
            state, device(meshes["one"], batch)
        )
        seen.append((before, jax.device_get(metrics), jax.device_get(state)))
    return seen


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_full_batch(
    tiny, fresh, batches, meshes, steps, parts
):
    program = build(tiny(f"train.accumulate={parts}"), meshes["one"])
    state = fresh("one")
    for batch, (_, metrics, wanted) in zip(batches[:3], steps, strict=True):
        state, found = program.step(state, device(meshes["one"], batch))
        assert set(found) == set(metrics)
        for name, value in metrics.items():
            assert float(found[name]) == pytest.approx(value, rel=1e-5)
        # Adam's first moment is the gradient, up to a factor.
        gradients = optax.tree.get(wanted.opt_state, "mu")
        scale = max(np.abs(g).max() for g in gradients.values())
        for name, mean in optax.tree.get(state.opt_state, "mu").items():
            np.testing.assert_allclose(
                mean, gradients[name], rtol=1e-4, atol=1e-6 * scale
            )
    for name, wanted_array in wanted.params.items():
        np.testing.assert_allclose(
            state.params[name], wanted_array, rtol=1e-4, atol=1e-5
        )


def test_ema_decay_warms_up():
    wanted = {0: 1 / 10, 1: 2 / 11, 8: 9 / 18, 90: 91 / 100, 10**6: 0.995}
    for step, decay in wanted.items():
        assert ema_decay(jnp.int32(step), 0.995) == pytest.approx(decay)
    assert ema_decay(jnp.int32(5), 0.0) == 0


def test_ema_is_the_running_average_of_the_parameters(steps):
    average = steps[0][0].params
    for step, (_, _, after) in enumerate(steps):
        decay = (1 + step) / (10 + step)
        average = {
            name: decay * old + (1 - decay) * after.params[name]
            for name, old in average.items()
        }
        for name, array in after.ema.items():
            np.testing.assert_allclose(array, average[name], 1e-5, 1e-7)


def test_steps_are_counted(steps):
    assert [int(after.step) for _, _, after in steps] == [1, 2, 3]
    for name in ("loss", "mse", "grad_norm"):
        assert all(np.isfinite(metrics[name]) for _, metrics, _ in steps)


def test_gradients_reach_everything_once_the_zeros_have_moved(steps):
    """Output layer, then gates, then what they had shut off."""

    def moving(after):
        moments = optax.tree.get(after.opt_state, "mu")
        return {name for name, mean in moments.items() if np.any(mean)}

    first, second, third = (moving(after) for _, _, after in steps)
    assert first == {"dit/final/out/kernel", "dit/final/out/bias"}
    assert first < second < third
    assert "dit/blocks/modulation/kernel" in second
    assert not any(name.startswith("encoder/") for name in second)
    assert third == set(steps[0][0].params)
    before, after = steps[0][0].params, steps[2][2].params
    assert not [n for n in after if np.array_equal(before[n], after[n])]


def test_a_step_is_a_function_of_its_number(programs, fresh, batches, meshes):
    batch = device(meshes["one"], batches[0])

    def loss(number):
        state = fresh("one")
        step = jax.device_put(jnp.int32(number), state.step.sharding)
        state = dataclasses.replace(state, step=step)
        return float(programs["one"].step(state, batch)[1]["loss"])

    assert loss(3) == loss(3)
    assert loss(3) != loss(4)


def test_the_loss_falls_on_one_batch_and_one_draw(
    programs, fresh, batches, meshes
):
    state = fresh("one")
    batch = device(meshes["one"], batches[0])
    losses = []
    for _ in range(60):
        state, metrics = programs["one"].step(state, batch)
        # The draws depend on the step alone: hold it, and they are the same.
        state = dataclasses.replace(state, step=jnp.zeros_like(state.step))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.6 * losses[0]


def test_draws_depend_on_key_and_step_alone(tiny):
    from i2i_prior.tasks.registry import make_task

    task = make_task(tiny("conditioner.noise=0.1", "conditioner.mask_rate=0.5"))
    run_key = jax.random.key(3)

    def draws(step, key=run_key):
        return task.draw(jax.random.fold_in(key, step), task.latent_shape(8))

    first, again, other = draws(7), draws(7), draws(8)
    assert set(first) == {"t", "noise", "drop", "embedding_noise", "keep"}
    for name, array in first.items():
        assert np.array_equal(array, again[name])
    for name in ("t", "noise", "embedding_noise", "keep"):
        assert not np.array_equal(first[name], other[name])
    assert not np.array_equal(
        first["noise"], draws(7, jax.random.key(4))["noise"]
    )
    # No two of them share a stream.
    assert not np.array_equal(
        first["noise"].ravel()[:32], first["embedding_noise"].ravel()[:32]
    )


def test_draws_have_the_configured_distributions(tiny):
    from i2i_prior.tasks.registry import make_task

    task = make_task(
        tiny("conditioner.drop_rate=0.2", "conditioner.mask_rate=0.5")
    )
    draws = jax.device_get(
        task.draw(jax.random.key(0), task.latent_shape(4096))
    )
    assert draws["drop"].mean() == pytest.approx(0.2, abs=0.03)
    assert draws["keep"].any(axis=1).all()
    assert draws["noise"].shape == (4096, 8, 8, 3)
    assert draws["noise"].mean() == pytest.approx(0, abs=0.01)
    assert draws["noise"].std() == pytest.approx(1, abs=0.01)
    assert draws["t"].min() > 0
    assert draws["t"].max() <= 1
    # Logit-normal: the logit is standard normal.
    logit = np.log(draws["t"] / (1 - draws["t"]))
    assert logit.mean() == pytest.approx(0, abs=0.06)
    assert logit.std() == pytest.approx(1, abs=0.05)


def test_what_is_frozen_never_moves(tiny, batches, meshes):
    """Frozen encoder, one token's q and k, random null: all at once."""
    program = build(
        tiny(
            "encoder.kind=frozen",
            "encoder.weights=random",
            "conditioner.null=random",
            "conditioner.expand=1",
            "model.one_token=true",
        ),
        meshes["one"],
    )
    state = program.initialise()
    before = jax.device_get(state)
    for batch in batches[:3]:
        state, _ = program.step(state, device(meshes["one"], batch))
    after = jax.device_get(state)
    assert {name.split("/")[0] for name in before.frozen} == {
        "conditioner",
        "dit",
        "encoder",
    }
    for name, array in before.frozen.items():
        assert np.array_equal(array, after.frozen[name]), name
    for name, array in before.params.items():
        assert not np.array_equal(array, after.params[name]), name
    assert set(after.ema_parameters()) == set(before.params) | set(
        before.frozen
    )
