"""Attention forms against each other, on one device and on shards."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from i2i_prior.errors import UserError
from i2i_prior.models import attention_kernels as kernels
from i2i_prior.models.attention import attend
from i2i_prior.models.dit import DiT, DiTConfig, check_config
from i2i_prior.models.layers import ATTENTION
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.scan import REMAT_POLICIES
from i2i_prior.parallel.constraints import data_parallel_only, on_mesh


def operands(batch=2, queries=40, keys=24, heads=2, width=12, dtype="f4"):
    """q, k, v of Gaussians."""
    keys_ = jax.random.split(jax.random.key(0), 3)
    return tuple(
        jax.random.normal(key, (batch, length, heads, width), dtype)
        for key, length in zip(keys_, (queries, keys, keys), strict=True)
    )


def mask(batch=2, keys=24):
    """Half of the keys at random, the first always."""
    drawn = jax.random.bernoulli(jax.random.key(1), 0.5, (batch, keys))
    return drawn.at[:, 0].set(True)


def plain(q, k, v, mask):
    """The definition, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(np.asarray(mask)[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", weights, v)


def value_and_gradients(form, arrays, mask):
    """out, and the gradients of a loss that weighs every channel apart."""
    weights = jax.random.normal(jax.random.key(2), arrays[0].shape)

    @jax.jit
    def both(q, k, v):
        def loss(q, k, v):
            out = form(q, k, v, mask)
            return jnp.sum(out * weights), out

        grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
        return out, *grads

    return both(*arrays)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", ["batched", "xla", "splash"])
def test_forms_compute_the_definition(form, masked):
    q, k, v = operands()
    counts = mask() if masked else None
    out = kernels.FORMS[form](q, k, v, counts)
    np.testing.assert_allclose(out, plain(q, k, v, counts), atol=2e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_splash_has_the_gradients_of_the_plain_product(monkeypatch, masked):
    # 3 tiles of queries, 4 of keys in 2 blocks; both padded.
    monkeypatch.setattr(kernels, "TILES", (128,))
    monkeypatch.setattr(kernels, "TILES_KV", 2)
    arrays = operands(queries=300, keys=400)
    counts = mask(keys=400) if masked else None
    wanted = value_and_gradients(kernels.batched, arrays, counts)
    found = value_and_gradients(kernels.splash, arrays, counts)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


def test_long_scores_go_in_turns(monkeypatch):
    arrays = operands()
    wanted = value_and_gradients(kernels.batched, arrays, mask())
    # One of the 4 rows of (40, 24) scores at once, then 2.
    for rows in (1, 3):
        monkeypatch.setattr(kernels, "SCORES_AT_ONCE", rows * 4 * 40 * 24)
        found = value_and_gradients(kernels.batched, arrays, mask())
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("form", ["batched", "splash"])
@pytest.mark.parametrize("where", ["context", "tensor", "data_parallel_only"])
def test_shards_agree_with_one_device(meshes, form, where):
    arrays = operands(batch=4)
    counts = mask(batch=4)
    wanted = value_and_gradients(kernels.batched, arrays, counts)
    mesh = meshes["tensor" if where == "tensor" else "context"]
    image = ("replica", "fsdp"), "context", "tensor"
    spec = (
        P(tuple(mesh.axis_names))
        if where == "data_parallel_only"
        else P(*image)
    )
    seen = []

    def counted(q, k, v, mask):
        seen.append((q.shape, k.shape))
        return kernels.FORMS[form](q, k, v, mask)

    def sharded(q, k, v, counts):
        q = jax.lax.with_sharding_constraint(q, NamedSharding(mesh, spec))
        with on_mesh(mesh):
            if where != "data_parallel_only":
                return kernels.per_shard(counted, q, k, v, counts)
            with data_parallel_only():
                return kernels.per_shard(counted, q, k, v, counts)

    found = value_and_gradients(sharded, arrays, counts)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)
    local = {
        "context": ((4, 20, 1, 12), (4, 24, 1, 12)),
        "tensor": ((2, 40, 1, 12), (2, 24, 1, 12)),
        "data_parallel_only": ((1, 40, 2, 12), (1, 24, 2, 12)),
    }
    assert set(seen) == {local[where]}


def lowered(function, platform, *shapes):
    """StableHLO for a platform that is not here."""
    traced = jax.jit(function).trace(*shapes)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def calls(function, primitive, *shapes):
    """How often a function runs a primitive for a result that it uses."""

    def count(jaxpr):
        return sum(
            (equation.primitive.name == primitive)
            + sum(map(count, jaxprs_in_params(equation.params)))
            for equation in jaxpr.eqns
            if equation.outvars
        )

    return count(jax.make_jaxpr(function)(*shapes).jaxpr)


def bfloat16(batch=1, queries=1024, keys=1024, heads=2, width=72):
    """Shapes of q and k."""
    return tuple(
        jax.ShapeDtypeStruct((batch, length, heads, width), jnp.bfloat16)
        for length in (queries, keys)
    )


@pytest.fixture
def on(monkeypatch):
    """on("tpu"): what is traced is for a TPU."""

    def platform(name):
        monkeypatch.setattr(kernels, "platform", lambda: name)

    # JAX asks for cuDNN's version when it traces.
    stablehlo = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(stablehlo, lambda: 91000)
    kernels.has_cudnn.cache_clear()
    yield platform
    kernels.has_cudnn.cache_clear()


@pytest.mark.parametrize(
    ("platform", "shape", "form"),
    [
        ("cpu", {}, "batched"),
        ("tpu", {}, "splash"),
        ("tpu", {"keys": 512}, "xla"),
        ("tpu", {"queries": 1}, "xla"),
        ("gpu", {}, "cudnn"),
        ("gpu", {"queries": 256, "keys": 256}, "cudnn"),
        ("gpu", {"keys": 4}, "xla"),
        ("gpu", {"width": 132}, "xla"),
        ("gpu", {"width": 68}, "xla"),
    ],
)
def test_auto_takes_what_the_platform_is_best_at(on, platform, shape, form):
    on(platform)
    assert kernels.choose("auto", *bfloat16(**shape), None) == form


def test_auto_feeds_fused_kernels_only_what_they_take(on):
    exact = [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in bfloat16()]
    odd = bfloat16(keys=77)
    counts = jax.ShapeDtypeStruct((1, 77), bool)
    for platform in ("gpu", "tpu"):
        on(platform)
        assert kernels.choose("auto", *exact, None) == "xla"
    on("gpu")
    assert kernels.choose("auto", *odd, counts) == "xla"
    assert kernels.choose("auto", *odd, None) == "cudnn"


def test_auto_does_without_cudnn_where_there_is_none(on, monkeypatch):
    def missing():
        raise RuntimeError("cuDNN is not detected.")

    stablehlo = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(stablehlo, missing)
    on("gpu")
    assert kernels.choose("auto", *bfloat16(), None) == "xla"
    with pytest.raises(UserError, match="finds no cuDNN here"):
        kernels.choose("cudnn", *bfloat16(), None)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("splash", "splash runs on tpu, not on cpu; set model.attention=auto"),
        ("cudnn", "cudnn runs on gpu, not on cpu; set model.attention=auto"),
    ],
)
def test_a_form_of_another_platform_is_refused(form, says):
    q, k, v = operands()
    with pytest.raises(UserError, match=says):
        attend(q, k, v, form=form)


def test_the_choice_reaches_every_attention_of_a_dit(monkeypatch):
    seen = []

    def choose(name, *_):
        seen.append(name)
        return "xla"

    monkeypatch.setattr("i2i_prior.models.attention.choose", choose)
    tiny = {"depth": 1, "width": 16, "heads": 2, "input_size": 4}
    for block in ("lumos", "modern"):
        config = DiTConfig(block=block, attention="splash", **tiny)
        model = nnx.eval_shape(lambda c=config: DiT(c, rngs=nnx.Rngs(0)))
        tokens = jnp.zeros((1, 3, 16))
        x = jnp.zeros((1, 4, 4, 4))
        nnx.eval_shape(lambda m, *a: m(*a), model, x, jnp.zeros(1), tokens)
    # Self- and cross-attention of each block.
    assert seen == ["splash"] * 4


def test_an_unknown_choice_is_refused_with_the_known_ones():
    says = "model.attention 'flash' is unknown; .* auto, batched, xla, cudnn"
    with pytest.raises(UserError, match=says):
        check_config(DiTConfig(attention="flash"))


def test_float32_is_not_rounded_by_a_fused_form(on):
    on("tpu")
    q, k, v = operands()
    with pytest.raises(UserError, match="multiplies bfloat16, not float32"):
        attend(q, k, v, form="splash")


@pytest.mark.parametrize("masked", [False, True])
def test_cudnn_is_called_for_forward_and_backward(on, masked):
    on("gpu")
    q, k = bfloat16(queries=256, keys=64)
    counts = jax.ShapeDtypeStruct((1, 64), bool) if masked else None

    def loss(q, k, v, counts):
        out = attend(q, k, v, counts, PRECISIONS["bfloat16"], "cudnn")
        return out.astype(jnp.float32).sum()

    text = lowered(jax.grad(loss, (0, 1, 2)), "cuda", q, k, k, counts)
    bias = "ScaleBias" if masked else ""
    for name in (f"fmha{bias}Softmax(", f"fmha{bias}SoftmaxBackward("):
        assert text.count("__cudnn$" + name) == 1


def test_cudnn_runs_on_shards_with_all_keys(on, meshes):
    on("gpu")
    (q, _), mesh = bfloat16(batch=2, queries=256), meshes["context"]
    q = jax.ShapeDtypeStruct(
        q.shape, q.dtype, sharding=NamedSharding(mesh, P())
    )

    def loss(q, k, v):
        with on_mesh(mesh):
            out = attend(q, k, v, None, PRECISIONS["bfloat16"], "auto")
        return out.astype(jnp.float32).sum()

    text = lowered(jax.grad(loss, (0, 1, 2)), "cuda", q, q, q)
    # 2 context shards of the queries, 2 tensor shards of the heads.
    local = "(tensor<2x128x1x72xbf16>, tensor<2x256x1x72xbf16>,"
    for name in ("fmhaSoftmax(", "fmhaSoftmaxBackward("):
        line = next(a for a in text.splitlines() if "__cudnn$" + name in a)
        assert local in line


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("policy", "runs"), [("attention", 2), ("full", 3), ("none", 2)]
)
def test_a_kept_splash_is_not_run_again(on, policy, runs, masked):
    on("tpu")
    q, k = bfloat16()
    counts = jax.ShapeDtypeStruct((1, 1024), bool) if masked else None

    def loss(q, k, v, counts):
        def layer(q):
            out = attend(q, k, v, counts, PRECISIONS["bfloat16"], "splash")
            return jnp.tanh(out)

        layer = jax.checkpoint(layer, policy=REMAT_POLICIES[policy])
        return layer(jnp.tanh(q)).astype(jnp.float32).sum()

    gradient = jax.grad(loss, (0, 1, 2))
    assert calls(gradient, "pallas_call", q, k, k, counts) == runs
    assert "@tpu_custom_call(" in lowered(gradient, "tpu", q, k, k, counts)


@pytest.mark.parametrize(("kept", "runs"), [(True, 1), (False, 2)])
def test_a_kept_cudnn_is_not_run_again(on, kept, runs):
    on("gpu")
    q, k = bfloat16()
    policy = jax.checkpoint_policies.save_only_these_names(ATTENTION)
    if kept:
        both = jax.checkpoint_policies.save_from_both_policies
        policy = both(policy, kernels.keep_cudnn)

    @functools.partial(jax.checkpoint, policy=policy)
    def layer(q, k, v):
        out = attend(q, k, v, None, PRECISIONS["bfloat16"], "cudnn")
        return jnp.tanh(out)

    def loss(q, k, v):
        return layer(jnp.tanh(q), k, v).astype(jnp.float32).sum()

    forward = "dot_product_attention_fwd_wrapper"
    assert calls(jax.grad(loss), forward, q, k, k) == runs
