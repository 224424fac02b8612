"""The image encoder against a ViT of PyTorch's own transformer layers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.vit import ViT, ViTConfig

torch = pytest.importorskip("torch")

DEPTH, WIDTH, HEADS = 2, 32, 4
CONFIG = ViTConfig(
    depth=DEPTH, width=WIDTH, heads=HEADS, patch=4, image_size=12
)


class TorchViT(torch.nn.Module):
    """A ViT out of PyTorch's own parts."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.patch = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, 10, WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH,
                HEADS,
                4 * WIDTH,
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=1e-6,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(DEPTH)
        )
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels):
        h = self.patch(pixels).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls.expand(len(h), -1, -1), h], dim=1)
        h = h + self.positions
        for layer in self.layers:
            h = layer(h)
        return self.norm(h)


# Ours, inside a block -> PyTorch's.
NAMES = {
    ("norm1", "gain"): "norm1.weight",
    ("norm1", "bias"): "norm1.bias",
    ("norm2", "gain"): "norm2.weight",
    ("norm2", "bias"): "norm2.bias",
    ("attention", "qkv", "kernel"): "self_attn.in_proj_weight",
    ("attention", "qkv", "bias"): "self_attn.in_proj_bias",
    ("attention", "out", "kernel"): "self_attn.out_proj.weight",
    ("attention", "out", "bias"): "self_attn.out_proj.bias",
    ("mlp", "fc1", "kernel"): "linear1.weight",
    ("mlp", "fc1", "bias"): "linear1.bias",
    ("mlp", "fc2", "kernel"): "linear2.weight",
    ("mlp", "fc2", "bias"): "linear2.bias",
}


def conv_kernel(weight):
    """(D, C, p, q) -> ((p, q, c), D)."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, WIDTH)


def randomize(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim == 2 else 4
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / fan_in**0.5)
    return model.eval()


def run(flat, pixels):
    """Our ViT with the given arrays in the place of every leaf."""
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: ViT(CONFIG, rngs=nnx.Rngs(0)))
    )
    leaves = dict(nnx.to_flat_state(state))
    assert leaves.keys() == flat.keys()
    for path, leaf in leaves.items():
        assert leaf.shape == flat[path].shape, path
        leaves[path] = leaf.replace(np.ascontiguousarray(flat[path]))
    state = nnx.from_flat_state(leaves)
    return jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, pixels)


def compare(features, reference):
    np.testing.assert_allclose(features.cls, reference[:, 0], atol=1e-5)
    np.testing.assert_allclose(features.patches, reference[:, 1:], atol=1e-5)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 12, 12, 3)).astype("f4")


def test_against_torch_transformer(pixels):
    model = randomize(TorchViT())
    state = {n: p.detach().numpy() for n, p in model.named_parameters()}
    flat = {
        ("patch_embed", "kernel"): conv_kernel(state["patch.weight"]),
        ("patch_embed", "bias"): state["patch.bias"],
        ("cls",): state["cls"],
        ("positions",): state["positions"],
        ("norm", "gain"): state["norm.weight"],
        ("norm", "bias"): state["norm.bias"],
    }
    for path, name in NAMES.items():
        layers = [state[f"layers.{i}.{name}"] for i in range(DEPTH)]
        stacked = np.stack(layers)
        if path[-1] == "kernel":
            stacked = stacked.transpose(0, 2, 1)
        flat[("blocks", *path)] = stacked
    with torch.no_grad():
        reference = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    compare(run(flat, pixels), reference.numpy())


def test_bad_shapes_are_refused():
    for config in (ViTConfig(image_size=225), ViTConfig(heads=7)):
        with pytest.raises(UserError, match="must divide"):
            ViT(config, rngs=nnx.Rngs(0))
    for config, said in (
        (ViTConfig(family="resnet"), "choose one of dino"),
        (ViTConfig(family="siglip", registers=4), "no CLS token"),
        (ViTConfig(projection=512), "only the families clip"),
    ):
        with pytest.raises(UserError, match=said):
            ViT(config, rngs=nnx.Rngs(0))


def test_bad_images_are_refused():
    def features(pixels):
        return ViT(CONFIG, rngs=nnx.Rngs(0))(pixels)

    shape = jax.ShapeDtypeStruct((1, 16, 13, 3), "float32")
    with pytest.raises(UserError, match="16 x 13 pixels does not split"):
        jax.eval_shape(features, shape)


def test_configs_are_flat():
    """A config file holds them: plain values, defaults of DINO v1 B/16."""
    values = dataclasses.asdict(ViTConfig())
    assert {type(v) for v in values.values()} <= {int, float, str, bool}
    assert ViTConfig().hidden == 3072
    assert ViTConfig(mlp_width=4304).hidden == 4304
