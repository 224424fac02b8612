"""The DiT on its own terms: doors, fast path, scan, remat, precision."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.blocks.modern import ModernBlock
from i2i_prior.models.conditioner import Conditioner, ConditionerConfig
from i2i_prior.models.dit import (
    DiT,
    DiTConfig,
    frozen_names,
    patchify,
    token_count,
    unpatchify,
)
from i2i_prior.models.positions import rope_2d, sincos_2d
from i2i_prior.models.precision import matmul
from i2i_prior.models.presets import SIZES, preset

TINY = DiTConfig(depth=2, width=32, heads=2, patch=2, input_size=8)
MODERN = dataclasses.replace(
    TINY, block="modern", pooled_width=5, concat_channels=3
)


def randomized(make, seed: int = 0):
    """(graphdef, state) with every leaf drawn anew, zeros included."""
    graphdef, state = nnx.split(nnx.eval_shape(make))
    flat = dict(nnx.to_flat_state(state))
    rng = np.random.default_rng(seed)
    for path in sorted(flat, key=str):
        shape = flat[path].shape
        fan_in = shape[-2] if path[-1] == "kernel" else 4
        noise = rng.standard_normal(shape).astype("f4") / fan_in**0.5
        flat[path] = flat[path].replace(noise)
    return graphdef, nnx.from_flat_state(flat)


def dit(config: DiTConfig):
    return randomized(lambda: DiT(config, rngs=nnx.Rngs(0)))


def inputs(config: DiTConfig, tokens: int = 5) -> dict:
    rng = np.random.default_rng(1)

    def draw(*shape):
        return rng.standard_normal(shape).astype("f4")

    size = config.input_size
    return {
        "x": draw(2, size, size, config.channels),
        "timestep": np.float32([3.0, 700.0]),
        "tokens": draw(2, tokens, config.width),
    }


def apply(graphdef, state, batch):
    return nnx.merge(graphdef, state)(**batch)


def relative_error(a, b) -> float:
    a, b = np.asarray(a, "f8"), np.asarray(b, "f8")
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def output_and_gradients(graphdef, state, batch):
    """The output and a flat dict of gradients of its mean square."""

    @jax.jit
    def run(state):
        def loss(state):
            out = apply(graphdef, state, batch)
            return jnp.square(out).mean(), out

        (_, out), grads = jax.value_and_grad(loss, has_aux=True)(state)
        return out, grads

    out, grads = run(state)
    flat = nnx.to_flat_state(grads)
    return out, {path: np.asarray(leaf[...]) for path, leaf in flat}


def test_one_token_makes_cross_attention_a_constant():
    fast_config = dataclasses.replace(TINY, one_token=True)
    batch = inputs(TINY, tokens=1)
    (pattern,) = frozen_names(fast_config)
    graphdef, state = dit(fast_config)
    flat = dict(nnx.to_flat_state(state))
    for path, leaf in flat.items():
        if re.search(pattern, "/".join(path)):  # NaN shows that none is read
            flat[path] = leaf.replace(leaf[...] * np.nan)
    state = nnx.from_flat_state(flat)
    fast, fast_grads = output_and_gradients(graphdef, state, batch)
    full, full_grads = output_and_gradients(*dit(TINY), batch)
    assert relative_error(fast, full) < 2e-6

    scale = np.abs(full_grads["blocks", "cross_attention", "v", "kernel"])
    untrained = 0
    for path, gradient in fast_grads.items():
        if re.search(pattern, "/".join(path)):
            untrained += 1
            assert not gradient.any(), path
            assert np.abs(full_grads[path]).max() < 1e-6 * scale.max()
        else:
            assert gradient.any(), path
            assert relative_error(gradient, full_grads[path]) < 1e-5
    assert untrained == 4  # kernel and bias of q and of k
    assert frozen_names(TINY) == ()


def test_lumos_xl2_has_the_published_parameter_count():
    def build():
        config = DiTConfig(**preset("lumos_xl2"))
        conditioner = ConditionerConfig(768, 1152, null="random")
        rngs = nnx.Rngs(0)
        return DiT(config, rngs=rngs), Conditioner(conditioner, rngs=rngs)

    model = nnx.eval_shape(build)
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(p.size for p in params) == 822_006_176
    everything = jax.tree.leaves(nnx.state(model))
    assert sum(p.size for p in everything) == 822_006_176 + 768


def torch_modern_block(p: dict, inputs: dict, heads: int, grid):
    """The modern block in torch's own functions, RoPE by complex numbers."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    p = {path: torch.from_numpy(np.array(leaf)) for path, leaf in p.items()}
    h, time, tokens = (
        torch.from_numpy(inputs[n]) for n in ("h", "time", "tokens")
    )
    mask = torch.from_numpy(inputs["mask"])
    width = h.shape[-1]

    def rms(x):
        return F.rms_norm(x, x.shape[-1:], eps=1e-6)

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def qk(x, part, name):
        return rms(split(x)) * p[part, name, "gain"]

    def turn(x):  # pairs (i, i + d/2) as complex numbers
        d = x.shape[-1]
        omega = 1e4 ** (-torch.arange(d // 4) / (d // 4))
        row, column = torch.meshgrid(
            torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij"
        )
        angle = torch.cat(
            [a.reshape(-1, 1) * omega for a in (row, column)], dim=1
        )
        turned = torch.complex(*x.chunk(2, -1)) * torch.polar(
            torch.ones_like(angle), angle
        )
        return torch.cat([turned.real, turned.imag], -1)

    def attend(q, k, v, part, mask=None):
        out = F.scaled_dot_product_attention(q, k, split(v), attn_mask=mask)
        out = out.transpose(1, 2).flatten(2)
        return out @ p[part, "out", "kernel"]

    m = F.silu(time) @ p["modulation", "kernel"] + p["modulation", "bias"]
    m = m[:, None].split(width, dim=-1)
    x = rms(h) * (1 + m[1]) + m[0]
    q, k, v = (x @ p["attention", "qkv", "kernel"]).chunk(3, -1)
    q = turn(qk(q, "attention", "q_norm"))
    k = turn(qk(k, "attention", "k_norm"))
    h = h + m[2] * attend(q, k, v, "attention")
    x = rms(h) * (1 + m[7]) + m[6]
    cross = "cross_attention"
    q = qk(x @ p[cross, "q", "kernel"], cross, "q_norm")
    k = qk(tokens @ p[cross, "k", "kernel"], cross, "k_norm")
    v = tokens @ p[cross, "v", "kernel"]
    h = h + m[8] * attend(q, k, v, cross, mask[:, None, None])
    x = rms(h) * (1 + m[4]) + m[3]
    gate, value = (x @ p["mlp", "gate_value", "kernel"]).chunk(2, -1)
    h = h + m[5] * (F.silu(gate) * value @ p["mlp", "out", "kernel"])
    return h.numpy()


def test_modern_block_against_torch():
    width, heads, grid = 32, 2, (2, 3)
    graphdef, state = randomized(
        lambda: ModernBlock(
            DiTConfig(block="modern", width=width, heads=heads),
            rngs=nnx.Rngs(0),
        )
    )
    rng = np.random.default_rng(2)
    batch = {
        "h": rng.standard_normal((2, 6, width)).astype("f4"),
        "time": rng.standard_normal((2, width)).astype("f4"),
        "tokens": rng.standard_normal((2, 4, width)).astype("f4"),
        "mask": np.array([[1, 1, 0, 1], [0, 1, 0, 0]], bool),
    }
    angles = rope_2d(width // heads, grid)
    ours = jax.jit(apply)(graphdef, state, {**batch, "angles": angles})
    flat = {path: leaf[...] for path, leaf in nnx.to_flat_state(state)}
    assert flat["mlp", "out", "kernel"].shape == (80, width)  # 2/3 of 4 D
    reference = torch_modern_block(flat, batch, heads, grid)
    assert relative_error(ours, reference) < 3e-6


def test_every_door_opens_and_the_mask_hides():
    graphdef, state = dit(MODERN)
    rng = np.random.default_rng(3)
    batch = inputs(MODERN)
    batch["mask"] = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    batch["pooled"] = rng.standard_normal((2, 5)).astype("f4")
    batch["concat"] = rng.standard_normal((2, 8, 8, 3)).astype("f4")
    run = jax.jit(lambda batch: apply(graphdef, state, batch))
    reference = run(batch)
    assert reference.shape == (2, 8, 8, 8)
    assert reference.dtype == jnp.float32
    for door in ("pooled", "concat", "timestep"):
        other = run({**batch, door: batch[door] + 1})
        assert relative_error(other, reference) > 1e-3, door

    def with_token(example, token):
        tokens = batch["tokens"].copy()
        tokens[example, token] += 100
        return run({**batch, "tokens": tokens})

    hidden = [tuple(index) for index in np.argwhere(~batch["mask"])]
    for index in hidden[:3]:
        np.testing.assert_array_equal(with_token(*index), reference)
    seen = np.abs(np.asarray(with_token(0, 1)) - reference).max((1, 2, 3))
    assert seen[0] > 1e-3
    assert seen[1] == 0  # examples do not mix


def test_scan_is_a_loop_over_layers():
    graphdef, state = dit(TINY)
    batch = inputs(TINY)

    def loop(state, batch):
        model = nnx.merge(graphdef, state)
        time = model.time_embed(batch["timestep"])
        h = model.patch_embed(patchify(batch["x"], 2))
        h = h + sincos_2d(TINY.width, (4, 4))
        for layer in range(TINY.depth):
            block = jax.tree.map(lambda a, i=layer: a[i], model.blocks)
            h = block(h, time, batch["tokens"], None)
        return unpatchify(model.final(h, time), (4, 4), 2)

    expected = jax.jit(loop)(state, batch)
    assert relative_error(apply(graphdef, state, batch), expected) < 2e-6


def test_remat_and_unrolling_change_no_gradient():
    batch = inputs(TINY)
    out, grads = output_and_gradients(*dit(TINY), batch)
    policies = ("full", "attention", "hidden", "dots")
    changes = [{"remat": name} for name in policies]
    for change in (*changes, {"scan_unroll": 2}):
        config = dataclasses.replace(TINY, **change)
        got, got_grads = output_and_gradients(*dit(config), batch)
        assert relative_error(got, out) < 1e-5
        for path, gradient in grads.items():
            # The key bias has no gradient in theory, hence the atol.
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(
                got_grads[path], gradient, atol=1e-4 * scale + 1e-7
            )


@pytest.mark.parametrize("config", [TINY, MODERN], ids=["lumos", "modern"])
def test_bfloat16_policies_stay_close_to_float32(config):
    config = dataclasses.replace(config, pooled_width=0, concat_channels=0)
    batch = inputs(config)
    errors = {}
    for name in ("float32", "bfloat16", "bfloat16_matmul"):
        graphdef, state = dit(dataclasses.replace(config, precision=name))
        out = jax.jit(apply)(graphdef, state, batch)
        assert out.dtype == jnp.float32
        if name == "float32":
            reference = out
        errors[name] = relative_error(out, reference)
    assert 1e-4 < errors["bfloat16_matmul"] < 0.03
    assert 1e-4 < errors["bfloat16"] < 0.06


def test_matmul_rounds_its_operands_and_nothing_else():
    rng = np.random.default_rng(4)
    x, kernel, cotangent = (
        rng.standard_normal(shape).astype("f4")
        for shape in ((64, 256), (256, 32), (64, 32))
    )
    bfloat16 = jnp.dtype("bfloat16")

    def rounded(a):
        return np.asarray(jnp.asarray(a, bfloat16), "f8")

    out, pull = jax.vjp(lambda x, w: matmul(x, w, bfloat16), x, kernel)
    dx, dkernel = pull(jnp.asarray(cotangent))
    assert out.dtype == dx.dtype == dkernel.dtype == jnp.float32
    expected = (
        (out, rounded(x) @ rounded(kernel)),
        (dx, rounded(cotangent) @ rounded(kernel).T),
        (dkernel, rounded(x).T @ rounded(cotangent)),
    )
    for got, want in expected:
        assert relative_error(got, want) < 1e-6

    # Optimizers transpose gradients, which one form of the product on
    # XLA's CPU back end does not survive.
    @jax.jit
    def transposed(x, kernel, cotangent):
        run = jax.vjp(lambda x, w: matmul(x, w, bfloat16), x, kernel)[1]
        return run(cotangent)[1].T

    got = transposed(x, kernel, cotangent)
    assert relative_error(got, expected[2][1].T) < 1e-6


def test_fresh_lumos_predicts_zero():
    """adaLN-zero and a zero final layer: the first output is exactly 0."""
    model = DiT(TINY, rngs=nnx.Rngs(0))
    out = apply(*nnx.split(model), inputs(TINY))
    assert not np.asarray(out).any()


def test_positions_column_first_and_scaled():
    table = sincos_2d(8, (2, 3), base_size=4, scale=2.0)
    position = [1 / (3 / 4) / 2, 1 / (2 / 4) / 2]  # column 1, row 1
    expected = [
        f(p * omega)
        for p in position
        for f in (np.sin, np.cos)
        for omega in (1, 0.01)
    ]
    np.testing.assert_allclose(table[4], expected, atol=1e-7)
    assert token_count(TINY) == 16


@pytest.mark.parametrize("size", SIZES)
def test_presets_make_valid_configs(size):
    for family in ("lumos", "modern"):
        config = DiTConfig(**preset(f"{family}_{size}2"))
        assert (config.depth, config.width, config.heads) == SIZES[size]
        nnx.eval_shape(lambda config=config: DiT(config, rngs=nnx.Rngs(0)))


def test_preset_names():
    assert preset("modern_s4")["patch"] == 4
    for name in ("lumos_xl", "unet_xl2", "lumos_xl2 ", "xl2"):
        with pytest.raises(UserError, match="family"):
            preset(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "dense"}, "model.block 'dense' is unknown"),
        ({"precision": "fp8"}, "choose one of float32"),
        ({"remat": "some"}, "none, full, attention, hidden, dots"),
        ({"heads": 3}, "does not split into 3 heads"),
        ({"width": 36, "heads": 4}, "heads of even width"),
        ({"width": 30, "heads": 3}, "divisible by 4"),
        ({"patch": 3}, "patches of 3"),
    ],
)
def test_bad_configs_say_what_to_change(change, message):
    with pytest.raises(UserError, match=message):
        DiT(dataclasses.replace(TINY, **change), rngs=nnx.Rngs(0))
