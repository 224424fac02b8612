"""Programs that XLA really compiled, for fake CPU devices, read back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from i2i_prior.aot.estimate import collectives, hlo
from i2i_prior.aot.estimate.hbm_traffic import count_traffic

LAYERS, ROWS, WIDTH = 3, 16, 32
SIZES = {"data": 2, "model": 2}


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    return Mesh(devices, tuple(SIZES), axis_types=(AxisType.Auto,) * 2)


def compiled(function, mesh, *arrays) -> hlo.Program:
    """Parsed HLO; an array is (shape, *axes of its sharding)."""
    arguments = [
        jax.ShapeDtypeStruct(
            shape,
            jnp.float32,
            sharding=NamedSharding(mesh, PartitionSpec(*axes)),
        )
        for shape, *axes in arrays
    ]
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return hlo.parse(text)


def found(function, mesh, *arrays, accumulate=1):
    return collectives.find_collectives(
        compiled(function, mesh, *arrays), SIZES, accumulate=accumulate
    )


def whole(array, mesh):
    """Gathered, and kept so."""
    spec = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(array, spec)


def layers(mesh, gather_outside: bool):
    def run(x, kernels):
        if gather_outside:
            kernels = whole(kernels, mesh)

        def layer(x, kernel):
            return jnp.tanh(x @ whole(kernel, mesh)), None

        return jax.lax.scan(layer, x, kernels)[0]

    return run


ARRAYS = (((ROWS, WIDTH), "data"), ((LAYERS, WIDTH, WIDTH), None, "model"))


def test_a_gather_in_the_layer_loop(mesh):
    gathers = [
        c
        for c in found(layers(mesh, False), mesh, *ARRAYS)
        if c.kind == "all-gather"
    ]
    assert len(gathers) == 1
    gather = gathers[0]
    assert gather.where == collectives.LAYERS
    assert gather.count == LAYERS
    assert gather.bytes == WIDTH * WIDTH * 4
    assert gather.axes == ("model",)
    assert gather.members == (0, 1)
    names = collectives.whole_parameters(
        gathers, {"kernels": (LAYERS, WIDTH, WIDTH)}
    )
    assert names == []


def test_a_gather_of_all_layers_is_flagged(mesh):
    gathers = found(layers(mesh, True), mesh, *ARRAYS)
    assert [c.where for c in gathers] == [collectives.OUTSIDE]
    assert gathers[0].bytes == LAYERS * WIDTH * WIDTH * 4
    stacked = {
        "kernels": (LAYERS, WIDTH, WIDTH),
        "others": (LAYERS, WIDTH, 2 * WIDTH),
    }
    assert collectives.whole_parameters(gathers, stacked) == ["kernels"]
    # Gathered whole but for two tensor shards.
    del stacked["kernels"]
    assert collectives.whole_parameters(gathers, stacked) == []
    assert collectives.whole_parameters(gathers, stacked, 2) == ["others"]


def test_a_sum_over_both_axes(mesh):
    sums = found(lambda x: x.sum(), mesh, ((ROWS, WIDTH), "data", "model"))
    assert {c.kind for c in sums} == {"all-reduce"}
    assert all(c.bytes == 4 for c in sums)
    assert {axis for c in sums for axis in c.axes} == {"data", "model"}


@pytest.mark.parametrize(
    ("before", "after", "kind", "axes"),
    [
        (("data", None), (None, "data"), "all-to-all", ("data",)),
        (("model", None), ("data", None), "collective-permute", None),
    ],
)
def test_other_kinds(mesh, before, after, kind, axes):
    def move(x):
        spec = NamedSharding(mesh, PartitionSpec(*after))
        return jax.lax.with_sharding_constraint(2 * x, spec)

    moves = found(move, mesh, ((ROWS, WIDTH), *before))
    assert {c.kind for c in moves} == {kind}
    assert all(c.bytes == ROWS * WIDTH * 4 / 2 for c in moves)
    assert axes is None or {c.axes for c in moves} == {axes}


def test_the_micro_batch_loop_is_no_layer_loop(mesh):
    run = layers(mesh, False)

    def accumulated(x, kernels):
        def micro(total, x):
            return total + run(x, kernels).sum() / 5, None

        return jax.lax.scan(micro, 0.0, jnp.stack([x] * 5))[0]

    everything = found(accumulated, mesh, *ARRAYS, accumulate=5)
    gathers = [c for c in everything if c.kind == "all-gather"]
    sums = [c for c in everything if c.kind == "all-reduce"]
    assert {(c.where, c.count) for c in gathers} == {
        (collectives.LAYERS, 5 * LAYERS)
    }
    assert {(c.where, c.count) for c in sums} <= {
        (collectives.OUTSIDE, 5),
        (collectives.OUTSIDE, 1),
    }
    assert sums


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x=1", (0, 2)),
        ("replica_groups={}, x=1", (0, 1, 2, 3)),
        ("replica_groups=[2,2]<=[4], x=1", (0, 1)),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x=1", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x=1", (0, 1)),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x=1", (0, 2)),
        (
            "replica_groups=mesh['a'=1,'b'=2,'c'=2], "
            "device_ids=([2,2]T(1,0)) {'b'}, x=1",
            (0, 1),
        ),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x=1", (0, 1)),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x=1", (0, 2)),
    ],
)
def test_notations_of_groups(text, group):
    assert collectives.first_group(text, 4) == group


# As the TPU compiler writes them: transfers spread over fusions, a
# reduce-scatter as a fusion, a start and its done.
TPU = """
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: f32[64,16]) -> f32[16,16] {
  %input = f32[64,16]{1,0} parameter(0)
  %all-reduce.1 = f32[64,16]{1,0} all-reduce(%input), channel_id=1, \
replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice = f32[16,16]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero)
}

%async_fusion.1 (p: bf16[8,16]) -> bf16[32,16] {
  %p = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[32,16]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), \
channel_id=2, replica_groups=mesh['x'=1,'y'=4] {'y'}, \
frontend_attributes={chain_id="0"}
}

%async_fusion.2 (p: bf16[8,16]) -> bf16[32,16] {
  %p = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[32,16]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), \
channel_id=2, replica_groups=mesh['x'=1,'y'=4] {'y'}, \
frontend_attributes={chain_id="0"}
}

%body (c: (s32[], f32[64,16], bf16[8,16])) -> (s32[], f32[64,16], bf16[8,16]) {
  %c = (s32[], f32[64,16], bf16[8,16]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[64,16]{1,0:T(8,128)} get-tuple-element(%c), index=1
  %w = bf16[8,16]{1,0} get-tuple-element(%c), index=2
  %f1 = bf16[32,16]{1,0:T(8,128)(2,1)S(1)} fusion(%w), kind=kCustom, \
calls=%async_fusion.1
  %f2 = bf16[32,16]{1,0:T(8,128)(2,1)S(1)} fusion(%w), kind=kCustom, \
calls=%async_fusion.2
  %rs = f32[16,16]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %ps = (f32[64,16]{1,0}, f32[64,16]{1,0}, u32[], u32[]) \
collective-permute-start(%x), channel_id=3, \
source_target_pairs={{0,0},{1,2},{2,3},{3,1}}
  %pd = f32[64,16]{1,0} collective-permute-done(%ps)
  ROOT %t = (s32[], f32[64,16], bf16[8,16]) tuple(%i, %pd, %w)
}

%condition (c: (s32[], f32[64,16], bf16[8,16])) -> pred[] {
  %c = (s32[], f32[64,16], bf16[8,16]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %limit = s32[]{:T(128)} constant(28)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p0: s32[], p1: f32[64,16], p2: bf16[8,16]) -> f32[64,16] {
  %p0 = s32[] parameter(0)
  %p1 = f32[64,16]{1,0} parameter(1)
  %p2 = bf16[8,16]{1,0} parameter(2)
  %start = (s32[], f32[64,16], /*index=2*/bf16[8,16]) tuple(%p0, %p1, %p2)
  %loop = (s32[], f32[64,16], bf16[8,16]) while(%start), \
condition=%condition, body=%body
  ROOT %out = f32[64,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_what_a_tpu_compiler_writes():
    program = hlo.parse(TPU)
    rows = collectives.summary(
        collectives.find_collectives(program, {"fsdp": 4})
    )
    seen = {row["kind"]: (row["bytes"], row["count"]) for row in rows}
    assert seen == {
        "all-gather": (32 * 16 * 2, 28),
        "reduce-scatter": (16 * 16 * 4, 28),
        "collective-permute": (64 * 16 * 4, 28),
    }
    assert {row["where"] for row in rows} == {collectives.LAYERS}


def test_what_crosses_between_slices():
    """A send to the host's network and a recv, as libtpu writes them."""
    crossing = """  %token = token[] after-all()
  %send.1 = (f32[64,16]{1,0}, u32[], token[]) send(%x, %token), \
channel_id=5, is_host_transfer=true, frontend_attributes={\
_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (f32[64,16]{1,0}, u32[], token[]) recv(%token), \
channel_id=6, is_host_transfer=true, frontend_attributes={\
_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %ps ="""
    program = hlo.parse(TPU.replace("  %ps =", crossing))
    mesh = {"replica": 2, "fsdp": 4}
    (sums,) = (
        c
        for c in collectives.find_collectives(program, mesh)
        if c.kind == "all-reduce"
    )
    assert (sums.bytes, sums.count) == (64 * 16 * 4, 28)
    assert (sums.members, sums.axes) == ((0, 4), ("replica",))
    # And it is no traffic of the chip's memory.
    assert count_traffic(program) == count_traffic(hlo.parse(TPU))


def test_a_kernel_s_metadata_spans_lines():
    kernel = """  %k = f32[64,16]{1,0} custom-call(%x), \\
custom_call_target="tpu_custom_call", metadata={op_name="x" info="{
"blocks": 512
}}, more"}
  %ps ="""
    text = TPU.replace("  %ps =", kernel)
    assert "custom-call" in text
    program = hlo.parse(text)
    assert "k" in program.computations["body"].instructions
    assert len(collectives.find_collectives(program, {"fsdp": 4})) == 3


def test_a_call_of_nothing():
    with pytest.raises(ValueError, match="not there"):
        hlo.parse(TPU.replace("%body (", "%elsewhere ("))


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("nothing here")


def test_traffic_counts_slices_not_stacks(mesh):
    """A scan over kernels reads each once, not all of them every time."""
    single = NamedSharding(
        Mesh(mesh.devices[:1, :1], ("a", "b")), PartitionSpec()
    )

    def run(x, kernels):
        return jax.lax.scan(lambda x, k: (x @ k, None), x, kernels)[0]

    def traffic(depth):
        shapes = ((256, 256), (depth, 256, 256))
        arguments = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=single)
            for shape in shapes
        ]
        text = jax.jit(run).lower(*arguments).compile().as_text()
        counted = count_traffic(hlo.parse(text))
        return counted.beside + counted.alone

    matrix = 256 * 256 * 4
    # Per layer: kernel and activation in, activation out; copies at most
    # double that. Reading the stack every time would make it quadratic.
    deep, shallow = traffic(16), traffic(4)
    assert 3 * matrix <= (deep - shallow) / 12 <= 8 * matrix
