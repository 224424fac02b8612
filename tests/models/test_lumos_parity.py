"""The Lumos DiT and conditioner against a PyTorch restatement, float32.

Every weight is random, the zero-initialised ones too, so each term of the
forward pass shows in the output: cosine-first time embedding, column-first
positions, the bare cross-attention, the raw-time final layer.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
from flax import nnx  # noqa: E402

from i2i_prior.models.conditioner import Conditioner, ConditionerConfig  # noqa: E402
from i2i_prior.models.dit import DiT, DiTConfig  # noqa: E402
from tests.peers.torch_lumos import TorchLumos  # noqa: E402

DEPTH, WIDTH, HEADS, PATCH, CONDITION, SIZE = 3, 48, 4, 2, 24, 8
LIMIT = 1e-5  # of the largest value of the reference

LINEAR = {  # ours -> the checkpoint's, inside one block
    ("attention", "qkv"): "attn.qkv",
    ("attention", "out"): "attn.proj",
    ("cross_attention", "q"): "cross_attn.q_linear",
    ("cross_attention", "out"): "cross_attn.proj",
    ("mlp", "fc1"): "mlp.fc1",
    ("mlp", "fc2"): "mlp.fc2",
    ("modulation",): "adaLN_modulation.1",
}


class Lumos(nnx.Module):
    """DiT and conditioner under one roof."""

    def __init__(self, config: DiTConfig, tokens: int, rngs: nnx.Rngs):
        self.dit = DiT(config, rngs=rngs)
        self.conditioner = Conditioner(
            ConditionerConfig(
                embedding_width=CONDITION,
                width=config.width,
                tokens_from="patches",
                patches=tokens,
            ),
            rngs=rngs,
        )


def to_jax(state: dict) -> dict:
    """Torch state dict (or gradients under its names) -> flat JAX arrays."""
    state = {name: value.detach().numpy() for name, value in state.items()}
    flat = {}

    def put(path, name, prefix=("dit",)):
        flat[(*prefix, *path, "kernel")] = state[f"{name}.weight"].T
        flat[(*prefix, *path, "bias")] = state[f"{name}.bias"]

    def stack(suffix):
        return np.stack([state[f"blocks.{i}.{suffix}"] for i in range(DEPTH)])

    for path, name in LINEAR.items():
        kernel = stack(f"{name}.weight").transpose(0, 2, 1)
        flat[("dit", "blocks", *path, "kernel")] = kernel
        flat[("dit", "blocks", *path, "bias")] = stack(f"{name}.bias")
    weights = np.split(stack("cross_attn.kv_linear.weight"), 2, axis=1)
    biases = np.split(stack("cross_attn.kv_linear.bias"), 2, axis=1)
    for part, weight, bias in zip("kv", weights, biases, strict=True):
        path = ("dit", "blocks", "cross_attention", part)
        flat[(*path, "kernel")] = weight.transpose(0, 2, 1)
        flat[(*path, "bias")] = bias
    conv = state["x_embedder.proj.weight"]  # (D, C, p, q) -> ((p, q, c), D)
    flat[("dit", "patch_embed", "kernel")] = conv.transpose(2, 3, 1, 0).reshape(
        -1, WIDTH
    )
    flat[("dit", "patch_embed", "bias")] = state["x_embedder.proj.bias"]
    put(("time_embed", "mlp", "fc1"), "t_embedder.mlp.0")
    put(("time_embed", "mlp", "fc2"), "t_embedder.mlp.2")
    put(("final", "out"), "final_layer.linear")
    table = state["final_layer.scale_shift_table"]
    flat[("dit", "final", "shift_scale")] = table
    for layer in ("fc1", "fc2"):
        name = f"y_embedder.y_proj.{layer}"
        put(("project", layer), name, prefix=("conditioner",))
    if "y_embedder.y_embedding" in state:
        null = state["y_embedder.y_embedding"]
        flat[("conditioner", "null")] = null
    return flat


def random_torch(tokens: int) -> TorchLumos:
    """Every weight random; products keep the scale of their input."""
    model = TorchLumos(DEPTH, WIDTH, HEADS, PATCH, SIZE, 4, CONDITION, tokens)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / fan_in**0.5)
    return model


def load(flat: dict, tokens: int, one_token: bool):
    """(graphdef, state) of ours with every single leaf replaced."""
    config = DiTConfig(
        depth=DEPTH,
        width=WIDTH,
        heads=HEADS,
        patch=PATCH,
        input_size=SIZE,
        one_token=one_token,
    )
    model = nnx.eval_shape(lambda: Lumos(config, tokens, nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    leaves = dict(nnx.to_flat_state(state))
    assert leaves.keys() == flat.keys()
    for path, leaf in leaves.items():
        assert leaf.shape == flat[path].shape, path
        leaves[path] = leaf.replace(np.ascontiguousarray(flat[path]))
    return graphdef, nnx.from_flat_state(leaves)


def inputs(tokens: int, height: int = 8, width: int = 12) -> dict:
    rng = np.random.default_rng(0)
    mask = rng.random((3, tokens)) < 0.5
    mask[:, 0] = True
    mask[0, 1:] = False
    return {
        "x": rng.standard_normal((3, height, width, 4)).astype("f4"),
        "timestep": np.float32([0.5, 417.25, 999.0]),
        "y": rng.standard_normal((3, tokens, CONDITION)).astype("f4"),
        "mask": mask,
        "drop": np.array([False, True, False]),
    }


def run_torch(model, batch, mask: bool):
    out = model(
        torch.from_numpy(batch["x"]).permute(0, 3, 1, 2),
        torch.from_numpy(batch["timestep"]),
        torch.from_numpy(batch["y"]),
        torch.from_numpy(batch["mask"]) if mask else None,
        torch.from_numpy(batch["drop"]),
    )
    return out.permute(0, 2, 3, 1)


def forward(graphdef, state, batch, mask: bool):
    model = nnx.merge(graphdef, state)
    tokens = model.conditioner(batch["y"], batch["drop"])
    mask = batch["mask"] if mask else None
    return model.dit(batch["x"], batch["timestep"], tokens, mask)


def is_zero_in_theory(path: tuple[str, ...], tokens: int) -> bool:
    """Gradients that are rounding noise: nothing to compare."""
    if "cross_attention" not in path:
        return False
    # A key bias adds the same to every score; one token leaves no choice.
    return path[-2:] == ("k", "bias") or (tokens == 1 and path[-2] in "qk")


def relative_error(ours, reference) -> float:
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize(
    ("tokens", "mask", "one_token"),
    [(5, True, False), (1, False, False), (1, False, True)],
    ids=["masked tokens", "one token", "one token, fast path"],
)
def test_output_and_gradients(tokens, mask, one_token):
    model, batch = random_torch(tokens), inputs(tokens)
    graphdef, state = load(to_jax(model.state_dict()), tokens, one_token)
    reference = run_torch(model, batch, mask)
    weights = np.random.default_rng(1).standard_normal(reference.shape)
    weights = weights.astype("f4")
    (reference * torch.from_numpy(weights)).mean().backward()
    expected = to_jax({n: p.grad for n, p in model.named_parameters()})

    @jax.jit
    def ours(state):
        def loss(state):
            out = forward(graphdef, state, batch, mask)
            return (out * weights).mean(), out

        (_, out), grads = jax.value_and_grad(loss, has_aux=True)(state)
        return out, grads

    out, grads = ours(state)
    assert relative_error(out, reference.detach()) <= LIMIT
    grads = dict(nnx.to_flat_state(grads))
    errors = {
        path: relative_error(grads[path][...], gradient)
        for path, gradient in expected.items()
        if not is_zero_in_theory(path, tokens)
    }
    # A timestep of 999 in float32 has a phase error of 1e-4 in either.
    assert max(errors.values()) <= 1e-4


def test_every_feature_of_the_layout_shows():
    """The comparison above could fail: each wrong layout is seen."""
    model, batch = random_torch(5), inputs(5)
    right = to_jax(model.state_dict())
    reference = run_torch(model, batch, True).detach()
    graphdef, _ = load(right, 5, False)
    run = jax.jit(lambda state: forward(graphdef, state, batch, True))

    def swapped(path, axis):
        parts = np.split(right[path], 2, axis=axis)
        return {**right, path: np.concatenate(parts[::-1], axis=axis)}

    time_order = ("dit", "time_embed", "mlp", "fc1", "kernel")
    final_table = ("dit", "final", "shift_scale")
    patch_order = ("dit", "patch_embed", "kernel")
    for wrong in (
        swapped(time_order, 0),
        swapped(final_table, 0),
        swapped(patch_order, 0),
    ):
        out = run(load(wrong, 5, False)[1])
        assert relative_error(out, reference) > 0.01


def test_state_dict_layout():
    """XL/2: 463 entries, 822,006,176 parameters, counted on two depths."""

    def parameters(depth):
        return sum(p.numel() for p in TorchLumos(depth).parameters())

    assert len(TorchLumos(2, 16, 4).state_dict()) == 15 + 16 * 2
    shell = parameters(0)
    assert shell + 28 * (parameters(1) - shell) == 822_006_176
