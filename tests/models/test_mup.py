"""muP: which parameters it scales, how, and that weights stay plain."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from i2i_prior.config import load_config
from i2i_prior.errors import UserError
from i2i_prior.models.conditioner import Conditioner, ConditionerConfig
from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.models.mup import gradient_factor, update_factor, width_ratio
from i2i_prior.parallel.mesh import make_mesh
from i2i_prior.tasks.network import parameter_shapes
from i2i_prior.tasks.registry import make_task
from i2i_prior.training.optimizer import decay_mask, make_optimizer
from i2i_prior.training.train_step import init_state, state_shardings
from i2i_prior.training.validate import validate
from tests.conftest import TINY

BLOCKS = ("lumos", "dit", "pixart", "modern")


def tiny(width=48, base=0, block="pixart", **fields):
    """The tiny config at a width of heads of 24."""
    overrides = [f"{n.replace('__', '.')}={v}" for n, v in fields.items()]
    return load_config(
        str(TINY),
        [
            f"model.block={block}",
            f"model.width={width}",
            f"model.heads={width // 24}",
            f"model.mup_base_width={base}",
            *overrides,
        ],
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_factors_are_those_of_what_grows_with_the_width(block):
    # Sizes 24 apart so that no rounding of the modern MLP's is in the way.
    shapes = [
        parameter_shapes(
            tiny(width, block=block, model__size_conditions=block != "modern")
        )
        for width in (48, 96)
    ]
    hidden = outputs = 0
    for name, narrow in shapes[0].items():
        wide = shapes[1][name]
        reads = makes = False
        if name.endswith("/kernel"):
            reads, makes = (
                wide.shape[side] > narrow.shape[side] for side in (-2, -1)
            )
        hidden += reads and makes
        outputs += reads and not makes
        assert update_factor(name, 0.5) == (0.5 if reads else 1), name
        once = reads and not makes
        assert gradient_factor(name, 0.5) == (0.5 if once else 1), name
    assert (hidden >= 9, outputs) == (True, 1)


def test_vectors_through_the_pooled_door_are_read_by_a_fixed_kernel():
    def shapes(width):
        config = DiTConfig(
            depth=1, width=width, heads=width // 8, input_size=4, pooled_width=5
        )
        state = nnx.state(
            nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0))), nnx.Param
        )
        return dict(nnx.to_flat_state(state))

    narrow, wide = shapes(16), shapes(32)
    names = {path: "dit/" + "/".join(path) for path in narrow}
    kernels = [p for p in narrow if "pooled_embed" in p and "kernel" in p]
    assert len(kernels) == 2
    for path in kernels:
        reads = wide[path].shape[-2] > narrow[path].shape[-2]
        assert update_factor(names[path], 0.5) == (0.5 if reads else 1)


def test_start_is_the_base_widths_and_hidden_kernels_shrink():
    narrow, wide, without = spread(48, 48), spread(192, 48), spread(192, 0)
    compared = 0
    for name, start in narrow.items():
        hidden = update_factor(name, 0.25) != 1
        expected = start * (0.5 if hidden else 1)
        assert wide[name] == pytest.approx(expected, rel=0.2), name
        compared += start > 0
    assert compared > 15
    # Without it they start as ever: Xavier, DiT's 0.02, PixArt's tables.
    for name, expected in {
        "dit/patch_embed/kernel": (2 / (16 + 192)) ** 0.5,
        "dit/time_embed/mlp/fc2/kernel": 0.02,
        "dit/blocks/table": 192**-0.5,
        "conditioner/project/fc2/kernel": 0.02,
    }.items():
        assert without[name] == pytest.approx(expected, rel=0.1), name
        assert abs(math.log(without[name] / wide[name])) > 0.3, name


def spread(width, base):
    """name -> RMS of fresh parameters."""
    # PixArt's has all that others have: tables, a shared modulation, sizes.
    dit = DiTConfig(
        block="pixart",
        depth=1,
        width=width,
        heads=width // 24,
        input_size=4,
        size_conditions=True,
        mup_base_width=base,
    )
    conditioner = ConditionerConfig(8, width, mup_base_width=base)
    modules = {
        "dit": DiT(dit, rngs=nnx.Rngs(0)),
        "conditioner": Conditioner(conditioner, rngs=nnx.Rngs(1)),
    }
    return {
        f"{part}/{'/'.join(path)}": float(np.std(variable[...]))
        for part, module in modules.items()
        for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param))
    }


def example(ratio=1.0):
    """A small net under our names: its parameters and its loss."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "dit/patch_embed/kernel": jax.random.normal(keys[0], (5, 16)),
        "dit/blocks/mlp/fc1/kernel": jax.random.normal(keys[1], (16, 16)) / 4,
        "dit/final/out/kernel": jnp.zeros((16, 3)),
        "dit/final/out/bias": jnp.zeros((3,)),
    }
    x = jax.random.normal(keys[2], (32, 5))
    y = jax.random.normal(keys[3], (32, 3))

    def loss(params):
        h = jnp.tanh(x @ params["dit/patch_embed/kernel"])
        h = h @ params["dit/blocks/mlp/fc1/kernel"] * ratio
        out = h @ params["dit/final/out/kernel"] + params["dit/final/out/bias"]
        return jnp.square(out - y).mean()

    return params, loss


def settings(**fields):
    section = tiny().optim
    section.update(
        {"learning_rate": 0.03, "warmup_steps": 3, "weight_decay": 0.1}
    )
    section.update(fields)
    return section


def trained(params, loss, transform, steps=25):
    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = transform.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def test_off_it_is_optax_adamw_bit_for_bit():
    params, loss = example()
    section = settings(clip_norm=0.5)
    warmup = optax.linear_schedule(0.03 / 3, 0.03, 3)
    schedule = optax.join_schedules(
        [warmup, optax.constant_schedule(0.03)], [3]
    )
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(schedule, weight_decay=0.1, mask=decay_mask),
    )
    transform = make_optimizer(section, 25)
    ends = [trained(params, loss, t, 6) for t in (transform, reference)]
    for name in params:
        np.testing.assert_array_equal(ends[0][name], ends[1][name])


def test_it_trains_as_a_network_with_a_multiplier_and_rates_of_its_own():
    ratio = 0.25
    # Where the clip acts and epsilon is felt, so that both must be right.
    section = settings(clip_norm=0.05, epsilon=1e-2, warmup_steps=0)
    ours = trained(*example(), make_optimizer(section, 25, ratio))

    def rate(factor):
        return optax.adamw(
            0.03 * factor,
            eps=1e-2,
            weight_decay=0.1 / factor,  # the decay is not scaled
            mask=decay_mask,
        )

    params, loss = example(ratio=ratio)
    labels = {n: "hidden" if "blocks" in n else "other" for n in params}
    reference = optax.chain(
        optax.clip_by_global_norm(0.05),
        optax.multi_transform(
            {"hidden": rate(ratio), "other": rate(1)}, labels
        ),
    )
    theirs = trained(params, loss, reference)
    theirs["dit/final/out/kernel"] *= ratio
    assert float(jnp.abs(ours["dit/final/out/kernel"]).max()) > 0.02
    for name in params:
        np.testing.assert_allclose(
            ours[name], theirs[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_state_and_its_shardings_are_the_same_tree(moments):
    section = settings(moment_dtype=moments)
    trees = []
    task = make_task(tiny(96, 48))
    mesh = make_mesh(replica=1, fsdp=4, context=1, tensor=1)
    for ratio in (1.0, task.shapes.dit.ratio):
        transform = make_optimizer(section, 10, ratio)
        shapes = jax.eval_shape(
            lambda key, t=transform: init_state(task, t, key), jax.random.key(0)
        )
        shardings = state_shardings(shapes, transform, mesh)
        trees.append((shapes.opt_state, shardings.opt_state))
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
    assert jax.tree.leaves(trees[0]) == jax.tree.leaves(trees[1])
    specs = {str(s.spec) for s in jax.tree.leaves(trees[1][1])}
    assert any("fsdp" in spec for spec in specs)


def test_weights_are_plain_the_network_has_no_factor_of_it():
    # So that any export, and a start from a run of another base width, are
    # right without knowing of it.
    outputs = []
    for base in (0, 8):
        config = DiTConfig(
            depth=1,
            width=16,
            heads=2,
            input_size=4,
            cross_attention=False,
            mup_base_width=base,
        )
        dit = DiT(config, rngs=nnx.Rngs(0))
        state = nnx.state(dit, nnx.Param)
        state = jax.tree.map(
            lambda a: jnp.cos(jnp.arange(a.size, dtype="f4")).reshape(a.shape),
            state,
        )
        nnx.update(dit, state)
        x = jnp.linspace(-1, 1, 2 * 4 * 4 * 4).reshape(2, 4, 4, 4)
        outputs.append(jax.jit(dit)(x, jnp.array([10.0, 900.0])))
    np.testing.assert_array_equal(*outputs)
    assert float(jnp.abs(outputs[0]).max()) > 0


def test_mistakes_are_told():
    assert width_ratio(0, 96) == width_ratio(96, 96) == 1
    with pytest.raises(UserError, match=r"model\.mup_base_width is -24"):
        validate(tiny(96, -24), 1)
    with pytest.raises(UserError, match="no multiple of the head width 24"):
        validate(tiny(96, 32), 1)
