"""The same run on any mesh: equal losses, really sharded arrays."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from i2i_prior.errors import UserError
from i2i_prior.parallel.mesh import batch_sharding, make_mesh, mesh_shape
from i2i_prior.parallel.sharding import explain, partition_spec
from i2i_prior.program import to_device

MESHES = ("one", "fsdp", "replica", "tensor")


@pytest.fixture(scope="module")
def runs(programs, fresh, batches, meshes):
    """Five steps on each mesh: losses, gradient norms, the last state."""
    found = {}
    for name in MESHES:
        state, losses, norms = fresh(name), [], []
        sharding = batch_sharding(meshes[name])
        for batch in batches[:5]:
            batch = to_device(batch, sharding)
            state, metrics = programs[name].step(state, batch)
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
        found[name] = losses, norms, state
    return found


@pytest.mark.parametrize("name", MESHES[1:])
def test_losses_agree_with_one_device(runs, name):
    losses, norms, state = runs[name]
    wanted, wanted_norms, wanted_state = runs["one"]
    assert losses == pytest.approx(wanted, rel=1e-5)
    assert norms == pytest.approx(wanted_norms, rel=1e-4)
    assert len(set(wanted)) == 5
    for parameter, array in wanted_state.ema.items():
        np.testing.assert_allclose(
            state.ema[parameter], array, rtol=1e-3, atol=1e-5
        )


def test_the_seed_gives_the_same_parameters_on_any_mesh(programs, fresh):
    wanted, found = fresh("one"), programs["fsdp"].initialise()
    for name, array in wanted.params.items():
        assert np.array_equal(found.params[name], array), name


@pytest.mark.parametrize(
    ("mesh", "name", "shape", "local"),
    [
        ("fsdp", "dit/blocks/attention/qkv/kernel", (2, 32, 96), (2, 8, 96)),
        ("fsdp", "dit/blocks/attention/out/kernel", (2, 32, 32), (2, 32, 8)),
        ("fsdp", "dit/patch_embed/kernel", (48, 32), (48, 8)),
        ("fsdp", "encoder/blocks/mlp/fc1/kernel", (1, 16, 64), (1, 4, 64)),
        ("fsdp", "encoder/blocks/mlp/fc1/bias", (1, 64), (1, 64)),
        ("replica", "dit/blocks/mlp/out/kernel", (2, 80, 32), (2, 80, 16)),
        ("tensor", "dit/blocks/mlp/out/kernel", (2, 80, 32), (2, 40, 16)),
        ("tensor", "dit/blocks/modulation/kernel", (2, 32, 288), (2, 16, 144)),
    ],
)
def test_state_is_really_sharded(runs, mesh, name, shape, local):
    state = runs[mesh][2]
    for array in (
        state.params[name],
        state.ema[name],
        optax.tree.get(state.opt_state, "mu")[name],
        optax.tree.get(state.opt_state, "nu")[name],
    ):
        assert array.shape == shape
        shards = array.addressable_shards
        assert [shard.data.shape for shard in shards] == [local] * 4


def test_steps_keep_the_shardings_they_are_given(runs, programs):
    for name, (_, _, state) in runs.items():
        wanted = jax.tree.map(lambda a: a.sharding, programs[name].abstract)
        assert jax.tree.all(
            jax.tree.map(
                lambda array, sharding: array.sharding.is_equivalent_to(
                    sharding, array.ndim
                ),
                state,
                wanted,
            )
        )


GOLDEN = {
    "dit/patch_embed/kernel": P(None, "fsdp"),
    "dit/patch_embed/bias": P(None),
    "dit/time_embed/mlp/fc1/kernel": P("fsdp", "tensor"),
    "dit/time_embed/mlp/fc2/kernel": P("tensor", "fsdp"),
    "dit/blocks/modulation/kernel": P(None, "fsdp", "tensor"),
    "dit/blocks/attention/qkv/kernel": P(None, "fsdp", "tensor"),
    "dit/blocks/attention/out/kernel": P(None, "tensor", "fsdp"),
    "dit/blocks/attention/q_norm/gain": P(None, None),
    "dit/blocks/cross_attention/q/kernel": P(None, "fsdp", "tensor"),
    "dit/blocks/cross_attention/k/kernel": P(None, "fsdp", "tensor"),
    "dit/blocks/cross_attention/v/kernel": P(None, "fsdp", "tensor"),
    "dit/blocks/cross_attention/out/kernel": P(None, "tensor", "fsdp"),
    "dit/blocks/mlp/gate_value/kernel": P(None, "fsdp", "tensor"),
    "dit/blocks/mlp/out/kernel": P(None, "tensor", "fsdp"),
    "dit/final/modulation/kernel": P("fsdp", "tensor"),
    "dit/final/out/kernel": P("tensor", "fsdp"),
    "conditioner/null": P(None, None),
    "conditioner/expand/kernel": P(None, "fsdp"),
    "conditioner/project/fc1/kernel": P("fsdp", "tensor"),
    "conditioner/project/fc2/kernel": P("tensor", "fsdp"),
    "encoder/cls": P(None, None, None),
    "encoder/positions": P(None, None, None),
    "encoder/patch_embed/kernel": P(None, "fsdp"),
    "encoder/blocks/attention/qkv/bias": P(None, None),
    "encoder/blocks/mlp/fc1/kernel": P(None, "fsdp", "tensor"),
    "encoder/blocks/mlp/fc2/kernel": P(None, "tensor", "fsdp"),
    "encoder/norm/gain": P(None),
}


def test_partition_specs_are_the_golden_ones(programs, meshes):
    params = programs["tensor"].abstract.params
    found = {
        name: partition_spec(name, params[name].shape, meshes["tensor"])
        for name in GOLDEN
    }
    assert found == GOLDEN
    # Nothing large is left whole.
    for name, array in params.items():
        if name.endswith("/kernel"):
            local = array.sharding.shard_shape(array.shape)
            assert np.prod(local) * 2 <= array.size, name


def test_axes_that_do_not_divide_stay_whole(meshes):
    def spec(*shape):
        return partition_spec("x/q/kernel", shape, meshes["fsdp"])

    assert spec(8, 8) == P("fsdp", "tensor")
    assert spec(6, 8) == P(None, "tensor")
    assert spec(3, 6, 8) == P(None, None, "tensor")


def test_explain_says_what_lies_where(programs, meshes):
    params = programs["tensor"].abstract.params
    lines = explain(params, meshes["tensor"]).splitlines()
    assert len(lines) == len(params)
    (line,) = [n for n in lines if n.startswith("dit/blocks/mlp/out/kernel")]
    assert "(2, 80, 32)" in line
    assert "'tensor', 'fsdp'" in line
    assert line.endswith(f"{2 * 40 * 16 * 4:,}")


@pytest.mark.parametrize(
    ("sizes", "devices", "shape"),
    [
        ((1, -1, 1), 8, (1, 8, 1)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((-1, 1, 1), 4, (4, 1, 1)),
        ((1, 2, -1), 4, (1, 2, 2)),
        ((2, 2, 1), 4, (2, 2, 1)),
        ((1, 1, 1), 1, (1, 1, 1)),
    ],
)
def test_mesh_shape_fills_in_one_axis(sizes, devices, shape):
    assert mesh_shape(*sizes, devices) == shape


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1, 3, 1), "does not lay out 4 devices; its product must be 4"),
        ((3, -1, 1), "does not lay out 4 devices"),
        ((1, 8, 1), "does not lay out 4 devices"),
        ((-1, -1, 1), "at most one is -1"),
        ((0, -1, 1), "sizes are positive"),
        ((1, -2, 1), "sizes are positive"),
    ],
)
def test_mesh_shape_refuses_what_does_not_fit(sizes, said):
    with pytest.raises(UserError, match=r"mesh \(replica, fsdp") as error:
        mesh_shape(*sizes, 4)
    assert said in str(error.value)


def test_the_batch_lies_over_replica_and_fsdp(meshes, batches):
    batch = to_device(batches[0], batch_sharding(meshes["tensor"]))
    assert set(batch) == {"image", "view"}
    shards = batch["image"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(4, 8, 8, 3)}
    batch = to_device(batches[0], batch_sharding(meshes["replica"]))
    rows = [s.index[0].start or 0 for s in batch["image"].addressable_shards]
    assert sorted(rows) == [0, 2, 4, 6]
    assert np.array_equal(batch["image"], batches[0]["image"])


def test_mesh_axes_are_automatic():
    mesh = make_mesh()
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert dict(mesh.shape) == {"replica": 1, "fsdp": 4, "tensor": 1}
