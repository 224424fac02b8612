"""The same run on any mesh: equal losses, really sharded arrays."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from i2i_prior.errors import UserError
from i2i_prior.parallel.explain import explain
from i2i_prior.parallel.mesh import (
    AXES,
    batch_sharding,
    layout,
    make_mesh,
    mesh_shape,
    slow_shape,
)
from i2i_prior.parallel.sharding import check, partition_spec
from i2i_prior.training.setup import to_device

MESHES = ("one", "fsdp", "replica", "tensor", "context")


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


@pytest.mark.parametrize(
    "names",
    [
        ("one", "all"),
        # Four devices show the same, and eight devices their union.
        pytest.param(
            ("one", "context4", "replica2_fsdp2_tensor2"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_losses_agree_on_eight_devices(python, photos, names):
    script = Path(__file__).with_name("eight_devices.py")
    process = python(script, photos, "lumos", *names)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = json.loads(out.splitlines()[-1])
    for name in names:
        assert found[name] == pytest.approx(found["one"], rel=1e-5), name
    assert len(set(found["one"])) == 3


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
        ("fsdp", "encoder/blocks/mlp/fc1/kernel", (1, 16, 64), (1, 16, 16)),
        ("fsdp", "encoder/blocks/mlp/fc1/bias", (1, 64), (1, 64)),
        ("replica", "dit/blocks/mlp/out/kernel", (2, 80, 32), (2, 80, 16)),
        ("tensor", "dit/blocks/mlp/out/kernel", (2, 80, 32), (2, 40, 16)),
        ("tensor", "dit/blocks/modulation/kernel", (2, 32, 288), (2, 32, 72)),
        ("tensor", "dit/blocks/attention/qkv/kernel", (2, 32, 96), (2, 8, 96)),
        ("context", "dit/blocks/mlp/out/kernel", (2, 80, 32), (2, 40, 16)),
        (
            "context",
            "dit/blocks/attention/out/kernel",
            (2, 32, 32),
            (2, 16, 16),
        ),
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


ZERO, ALL = ("fsdp", "context"), ("fsdp", "context", "tensor")
# name -> at rest, in use
GOLDEN = {
    "dit/patch_embed/kernel": (P(None, ALL), P(None, None)),
    "dit/patch_embed/bias": (P(None), P(None)),
    "dit/time_embed/mlp/fc1/kernel": (P(None, ALL), P(None, None)),
    "dit/time_embed/mlp/fc2/kernel": (P(None, ALL), P(None, None)),
    # Rows travel instead of this one.
    "dit/blocks/modulation/kernel": (P(None, None, ALL), P(None, None, ALL)),
    "dit/blocks/modulation/bias": (P(None, ALL), P(None, ALL)),
    "dit/blocks/attention/qkv/kernel": (
        P(None, ALL, None),
        P(None, None, None),
    ),
    "dit/blocks/attention/out/kernel": (
        P(None, "tensor", ZERO),
        P(None, "tensor", None),
    ),
    "dit/blocks/attention/q_norm/gain": (P(None, None), P(None, None)),
    "dit/blocks/cross_attention/q/kernel": (
        P(None, ZERO, "tensor"),
        P(None, None, "tensor"),
    ),
    "dit/blocks/cross_attention/k/kernel": (
        P(None, ZERO, "tensor"),
        P(None, None, "tensor"),
    ),
    "dit/blocks/cross_attention/v/kernel": (
        P(None, ZERO, "tensor"),
        P(None, None, "tensor"),
    ),
    "dit/blocks/cross_attention/out/kernel": (
        P(None, "tensor", ZERO),
        P(None, "tensor", None),
    ),
    "dit/blocks/mlp/gate_value/kernel": (
        P(None, ALL, None),
        P(None, None, None),
    ),
    "dit/blocks/mlp/out/kernel": (
        P(None, "tensor", ZERO),
        P(None, "tensor", None),
    ),
    "dit/final/modulation/kernel": (P(None, ALL), P(None, None)),
    "dit/final/out/kernel": (P(None, ALL), P(None, None)),
    "conditioner/null": (P(None, None), P(None, None)),
    "conditioner/expand/kernel": (P(None, ALL), P(None, None)),
    "conditioner/project/fc1/kernel": (P(None, ALL), P(None, None)),
    "conditioner/project/fc2/kernel": (P(None, ALL), P(None, None)),
    "encoder/cls": (P(None, None, None), P(None, None, None)),
    "encoder/positions": (P(None, None, None), P(None, None, None)),
    "encoder/patch_embed/kernel": (P(None, ALL), P(None, None)),
    "encoder/blocks/attention/qkv/bias": (P(None, None), P(None, None)),
    "encoder/blocks/attention/qkv/kernel": (
        P(None, None, ALL),
        P(None, None, None),
    ),
    "encoder/blocks/mlp/fc1/kernel": (P(None, None, ALL), P(None, None, None)),
    "encoder/blocks/mlp/fc2/kernel": (P(None, None, ALL), P(None, None, None)),
    "encoder/norm/gain": (P(None), P(None)),
}


def test_partition_specs_are_the_golden_ones(programs, meshes):
    params = programs["tensor"].abstract.params
    found = {
        name: tuple(
            partition_spec(name, params[name].shape, meshes["context"], use)
            for use in (False, True)
        )
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
        name = "dit/blocks/cross_attention/q/kernel"
        return partition_spec(name, shape, meshes["fsdp"])

    assert spec(8, 8) == P(ZERO, "tensor")
    # Where ZeRO does not divide one axis, it takes the other.
    assert spec(6, 8) == P(None, ("tensor", *ZERO))
    assert spec(6, 6) == P(None, "tensor")
    assert spec(3, 6, 6) == P(None, None, "tensor")


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        ((1, 3, 1, 1), "mesh.fsdp 3 x context 1 x tensor 1 does not divide"),
        ((1, 5, 2, 1), "100% of its parameters would lie in fewer pieces"),
        ((4, 1, 1, 1), ""),
        ((1, 4, 2, 2), ""),
    ],
)
def test_a_mesh_that_leaves_the_model_whole_is_refused(mesh, said):
    mesh = AbstractMesh(mesh, AXES)
    parameters = {
        "dit/blocks/mlp/fc1/kernel": jax.ShapeDtypeStruct((4, 512, 2048), "f4"),
        "dit/blocks/mlp/fc1/bias": jax.ShapeDtypeStruct((4, 2048), "f4"),
    }
    if not said:
        check(parameters, mesh)
        return
    with pytest.raises(UserError) as error:
        check(parameters, mesh)
    assert said in str(error.value)


def test_explain_says_what_lies_where(programs):
    state = programs["tensor"].abstract
    lines = explain(state).splitlines()
    arrays = len(jax.tree.leaves(state))
    assert len(lines) == 1 + arrays + len(("step", "params", "ema", "opt"))
    found = [n for n in lines if "dit/blocks/mlp/out/kernel" in n]
    # Parameter, EMA, both moments.
    assert [line.split("/")[0] for line in found] == [
        "params",
        "ema",
        "opt_state",
        "opt_state",
    ]
    for line in found:
        assert "(2, 80, 32)" in line
        assert "(-, tensor, fsdp*context)" in line
        assert line.endswith(f" {2 * 40 * 16 * 4:,}")
    assert "(-, tensor, -)" in found[0]  # in use
    [fused] = [n for n in lines if "params" in n and "gate_value/k" in n]
    assert "(-, fsdp*context*tensor, -)" in fused
    assert "(-, -, 2 x tensor)" in fused
    [total] = [n for n in lines if n.startswith("sum of ema")]
    bytes_there = sum(
        array.addressable_shards[0].data.nbytes
        for array in programs["tensor"].initialise().ema.values()
    )
    assert f" {bytes_there:,} bytes a device" in total


@pytest.mark.parametrize(
    ("sizes", "devices", "shape"),
    [
        ((1, -1, 1, 1), 8, (1, 8, 1, 1)),
        ((2, -1, 1, 2), 8, (2, 2, 1, 2)),
        ((2, -1, 2, 1), 8, (2, 2, 2, 1)),
        ((-1, 1, 1, 1), 4, (4, 1, 1, 1)),
        ((1, 2, -1, 1), 4, (1, 2, 2, 1)),
        ((2, 2, 1, 1), 4, (2, 2, 1, 1)),
        ((1, 1, 1, 1), 1, (1, 1, 1, 1)),
    ],
)
def test_mesh_shape_fills_in_one_axis(sizes, devices, shape):
    assert mesh_shape(*sizes, devices) == shape


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1, 3, 1, 1), "does not lay out 4 devices; its product must be 4"),
        ((3, -1, 1, 1), "does not lay out 4 devices"),
        ((1, 8, 1, 1), "does not lay out 4 devices"),
        ((-1, -1, 1, 1), "at most one is -1"),
        ((0, -1, 1, 1), "sizes are positive"),
        ((1, -2, 1, 1), "sizes are positive"),
    ],
)
def test_mesh_shape_refuses_what_does_not_fit(sizes, said):
    with pytest.raises(UserError, match=r"mesh \(replica, fsdp") as error:
        mesh_shape(*sizes, 4)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("shape", "groups", "slow"),
    [
        ((4, 8, 1, 1), 4, (4, 1, 1, 1)),
        ((2, 8, 1, 1), 4, (2, 2, 1, 1)),
        ((1, 32, 1, 2), 8, (1, 8, 1, 1)),
        ((8, 4, 2, 1), 2, (2, 1, 1, 1)),
    ],
)
def test_replica_then_fsdp_crosses_slow_links(shape, groups, slow):
    assert slow_shape(shape, groups) == slow


def test_context_and_tensor_do_not_cross_slow_links():
    with pytest.raises(UserError, match=r"make mesh\.replica a multiple of 4"):
        slow_shape((1, 2, 1, 16), 4)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """What mesh layout reads of a device of a multi-slice system."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "fake"

    @property
    def process_index(self) -> int:
        return self.slice_index


def test_slices_are_laid_out_along_replica():
    devices = [FakeDevice(n, n // 4) for n in (5, 0, 1, 4, 7, 3, 2, 6)]
    laid = layout((4, 2, 1, 1), devices)
    assert laid.shape == (4, 2, 1, 1)
    slices = np.vectorize(lambda device: device.slice_index)(laid)
    assert slices[:, :, 0, 0].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    across = layout((1, 8, 1, 1), devices)
    assert [d.slice_index for d in across.flat] == [0] * 4 + [1] * 4


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
    assert tuple(mesh.shape.values()) == (1, 4, 1, 1)
