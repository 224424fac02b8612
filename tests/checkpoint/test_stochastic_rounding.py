"""State in bfloat16: unbiased, mesh-free, and float32 for whoever reads it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from i2i_prior.checkpoint import run_dir
from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.checkpoint.restore import load_parameters, restore_or_init
from i2i_prior.checkpoint.stochastic_rounding import (
    narrow,
    round_stochastically,
    widen,
)
from i2i_prior.config import default_config
from i2i_prior.errors import UserError
from i2i_prior.parallel.mesh import batch_sharding
from i2i_prior.training.optimizer import make_optimizer
from i2i_prior.training.setup import build, to_device

NARROW = "train.ema_dtype=bfloat16", "optim.moment_dtype=bfloat16"
# Unconditional: a third of the arrays, each of which is rounded by code of
# its own that takes XLA long to compile.
SMALL = "encoder.kind=none", "conditioner.tokens_from=none"


def test_one_of_the_two_neighbours_and_right_on_average():
    values = jnp.float32([1.001, -1.001, 3.3e-7, -2.7e30, 1e-40, 5.0])
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(lambda key: round_stochastically(values, key))(keys)
    assert drawn.dtype == jnp.bfloat16
    drawn = np.asarray(drawn.astype(jnp.float32), np.float64)
    for value, series in zip(np.float64(values), drawn.T, strict=True):
        unit = np.unique(series)
        assert len(unit) == (1 if value == 5 else 2)
        assert unit[0] <= value <= unit[-1]
        # Four standard errors of a draw between two values.
        error = 4 * (unit[-1] - unit[0]) / 2 / len(keys) ** 0.5
        assert abs(series.mean() - value) <= error


def test_what_bfloat16_holds_stays():
    exact = jnp.float32([0.0, -0.0, 1.5, -256.0, np.inf, -np.inf, 2.0**-126])
    for seed in range(50):
        found = round_stochastically(exact, jax.random.key(seed))
        assert np.array_equal(found.astype(jnp.float32), exact)
        assert np.array_equal(np.signbit(found), np.signbit(exact))
    # All payloads: the largest would carry into the sign.
    payloads = np.uint32([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000])
    for seed in range(50):
        found = round_stochastically(
            jnp.asarray(payloads.view(np.float32)), jax.random.key(seed)
        )
        assert np.isnan(found.astype(jnp.float32)).all()


def followed(average, steps):
    """Averages (exact, stochastic, nearest) of wandering values."""
    start = 1 + jax.random.normal(jax.random.key(1), (4096,)) / 10
    nearly = start.astype(jnp.bfloat16)

    def body(carry, step):
        exact, chance, nearest, value = carry
        key = jax.random.fold_in(jax.random.key(2), step)
        drift, rounding = jax.random.split(key)
        value += 3e-5 + 1e-3 * jax.random.normal(drift, value.shape)
        exact = average(exact, value)
        chance = narrow(average(widen(chance), value), chance, rounding)
        nearest = average(widen(nearest), value).astype(jnp.bfloat16)
        return (exact, chance, nearest, value), None

    begin = widen(nearly), nearly, nearly, start
    end, _ = jax.jit(lambda: jax.lax.scan(body, begin, jnp.arange(steps)))()
    return (np.asarray(a, np.float64) for a in (begin[0], *end[:3]))


def test_a_slow_average_moves_where_the_nearest_stands_still():
    """Decay 0.9999, 5000 steps: the values drift by 0.15 of 1."""
    begin, exact, chance, nearest = followed(
        lambda old, new: old + 1e-4 * (new - old), 5000
    )
    moved = np.abs(exact - begin).mean()
    assert moved > 0.02
    assert np.abs(nearest - begin).mean() < 0.02 * moved  # stands still
    # In the mean over weights it is float32's, to a hundredth of the way.
    assert abs((chance - exact).mean()) < 0.01 * moved
    # Each by itself walks about it: a variance of |new - old| ulp / 2.
    spread = (np.abs(chance - exact) ** 2).mean() ** 0.5
    assert spread < (0.1 * 2.0**-7 / 2) ** 0.5


def test_adams_moments_stay_those_of_float32():
    """beta2 0.999 over 3000 steps: the nearest loses the second moment."""

    def optimizer(dtype):
        section = default_config().optim
        section.update(moment_dtype=dtype, clip_norm=1.0)
        return make_optimizer(section, 3000)

    params = {"a/kernel": jnp.zeros((32, 32))}
    exact, kept = optimizer("float32"), optimizer("bfloat16")

    def body(carry, step):
        one, two, nearest = carry
        draw, key = jax.random.split(
            jax.random.fold_in(jax.random.key(0), step)
        )
        # Large at first, so that the second moment has a way to fall.
        size = 1e-3 * (1 + 9 * jnp.exp(-step / 500))
        grads = {"a/kernel": size * jax.random.normal(draw, (32, 32))}
        _, one = exact.update(grads, one, params)
        _, two = kept.update(grads, two, params, key=key)
        _, nearest = exact.update(grads, widen(nearest), params)
        nearest = jax.tree.map(
            lambda a, old: a.astype(old.dtype), nearest, carry[2]
        )
        return (one, two, nearest), None

    begin = exact.init(params), kept.init(params), kept.init(params)
    end, _ = jax.jit(lambda: jax.lax.scan(body, begin, jnp.arange(3000)))()

    def moments(state, name):
        found = optax.tree.get(state, name)["a/kernel"]
        return np.asarray(found.astype(jnp.float32), np.float64)

    assert optax.tree.get(end[1], "nu")["a/kernel"].dtype == jnp.bfloat16
    wanted, found, nearest = (moments(state, "nu") for state in end)
    assert found.mean() == pytest.approx(wanted.mean(), rel=0.01)
    assert (found / wanted - 1).std() < 0.1  # sqrt(ulp / 2) is 0.06
    assert nearest.mean() > 2 * wanted.mean()
    assert moments(end[1], "mu").std() == pytest.approx(
        moments(end[0], "mu").std(), rel=0.01
    )


def test_the_rounding_does_not_depend_on_the_mesh(meshes):
    values = jax.random.normal(jax.random.key(0), (32, 16))
    tree = {"a": values, "b": jnp.int32(3)}
    like = {"a": tree["a"].astype(jnp.bfloat16), "b": tree["b"]}
    key = jax.random.key(7)
    one = jax.jit(narrow)(tree, like, key)
    assert one["a"].dtype == jnp.bfloat16
    assert one["b"] == 3
    mesh = meshes["tensor"]
    place = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    whole = NamedSharding(mesh, PartitionSpec())
    put = {"a": jax.device_put(tree["a"], place), "b": tree["b"]}
    four = jax.jit(narrow, out_shardings={"a": place, "b": whole})(
        put, like, key
    )
    assert len(four["a"].sharding.device_set) == 4
    assert np.array_equal(one["a"], four["a"])


@pytest.fixture(scope="module")
def narrowed(tiny, meshes, batches):
    """Program and states (NumPy) of 0 to 4 steps on one device."""
    program = build(tiny(*NARROW, *SMALL), meshes["one"])
    return program, run(program, program.initialise(), batches[:4])


@pytest.fixture(scope="module")
def wide(tiny, meshes):
    """The same program with its state in float32."""
    return build(tiny(*SMALL), meshes["one"])


def run(program, state, batches):
    states = [jax.device_get(state)]
    for batch in batches:
        batch = {name: batch[name] for name in ("image", "index")}
        batch = to_device(batch, batch_sharding(program.mesh))
        state, _ = program.step(state, batch)
        states.append(jax.device_get(state))
    return states


def placed(state, program):
    return jax.tree.map(
        lambda array, shape: jax.device_put(array, shape.sharding),
        state,
        program.abstract,
    )


def test_ten_bytes_a_parameter_instead_of_sixteen(narrowed, wide):
    def size(state):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    program, states = narrowed
    count = sum(array.size for array in states[0].params.values())
    assert {a.dtype for a in states[4].params.values()} == {np.dtype("f4")}
    assert {a.dtype for a in states[4].ema.values()} == {np.dtype(jnp.bfloat16)}
    # Beside three counters: the step's, Adam's and the schedule's.
    kept = size(dataclasses.replace(states[4], frozen={}))
    assert kept == 10 * count + 3 * 4
    for found, wanted in zip(
        jax.tree.leaves(states[4]),
        jax.tree.leaves(program.abstract),
        strict=True,
    ):
        assert found.dtype == wanted.dtype
    other = jax.eval_shape(wide.initialise)
    more = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(dataclasses.replace(other, frozen={}))
    )
    assert more - kept == 6 * count


def test_a_run_in_bfloat16_follows_the_one_in_float32(narrowed, wide, batches):
    states = run(wide, wide.initialise(), batches[:4])
    for name, wanted in states[4].params.items():
        np.testing.assert_allclose(
            narrowed[1][4].params[name], wanted, rtol=0.05, atol=5e-3
        )
    for name, wanted in states[4].ema.items():
        np.testing.assert_allclose(
            narrowed[1][4].ema[name].astype("f4"), wanted, rtol=0.05, atol=5e-3
        )


def test_four_devices_do_as_one(narrowed, tiny, meshes, batches):
    program = build(tiny(*NARROW, *SMALL), meshes["fsdp"])
    found = run(program, placed(narrowed[1][0], program), batches[:2])[2]
    wanted = narrowed[1][2]
    for name, array in wanted.ema.items():
        one, four = array.astype("f4"), found.ema[name].astype("f4")
        # A sum in another order may turn a draw: one unit, and seldom.
        np.testing.assert_allclose(four, one, rtol=2.0**-7, atol=1e-6)
        assert (one == four).mean() > 0.95, name


def test_resume_is_exact(narrowed, batches, tmp_path):
    program, states = narrowed
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(placed(states[2], program))
    checkpoints.wait()
    restored = checkpoints.restore(program.abstract, 2)
    checkpoints.close()
    end = run(program, restored, batches[2:4])[-1]

    def check(found, wanted):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)

    jax.tree.map(check, end, states[4])


def test_whoever_reads_gets_float32(narrowed, tmp_path):
    program, states = narrowed
    saved = Checkpoints(tmp_path / "run")
    saved.save(placed(states[3], program))
    saved.close()
    abstract = program.abstract
    wanted = abstract.params | abstract.frozen
    for weights, part in (("ema", states[3].ema), ("raw", states[3].params)):
        found, step = load_parameters(tmp_path / "run", wanted, weights=weights)
        assert step == 3
        for name, array in part.items():
            assert found[name].dtype == jnp.float32
            assert np.array_equal(found[name], array.astype("f4"))
    # And so does a new run that starts from it, in whatever it keeps.
    begun, _ = restore_or_init(
        Checkpoints(tmp_path / "new"),
        abstract,
        program.initialise,
        str(tmp_path / "run"),
    )
    for name, array in states[3].ema.items():
        assert begun.params[name].dtype == jnp.float32
        assert np.array_equal(begun.params[name], array.astype("f4"))
        assert np.array_equal(begun.ema[name], array)


def test_a_checkpoint_in_other_bits_is_refused(narrowed, wide, tmp_path):
    program, states = narrowed
    saved = Checkpoints(tmp_path)
    saved.save(placed(states[3], program))
    saved.wait()
    with pytest.raises(UserError, match=r"is bfloat16 .* there, float32"):
        saved.restore(wide.abstract, 3)
    saved.close()


@pytest.mark.parametrize("override", NARROW)
def test_a_run_keeps_its_dtype(tiny, override, tmp_path):
    run_dir.claim(tmp_path, tiny())
    with pytest.raises(UserError, match="holds a run of another config"):
        run_dir.check(tmp_path, tiny(override))


def test_a_network_computes_the_same_with_either(narrowed):
    """In-run samples are those of the exported float32 parameters."""
    program, states = narrowed
    functional = program.task.functional
    kept = states[4].ema_parameters()
    for narrow_one, wide in zip(
        jax.tree.leaves(functional.merge(kept)),
        jax.tree.leaves(functional.merge(widen(kept))),
        strict=True,
    ):
        assert narrow_one.dtype == wide.dtype
        assert np.array_equal(narrow_one, wide)
