"""Autoencoders against diffusers' own classes, every weight random."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.interop.autoencoders import functional_of, load
from i2i_prior.interop.files.state_dicts import StateDict
from i2i_prior.models.autoencoder import AUTOENCODERS, Pixels, make_autoencoder
from i2i_prior.models.autoencoder_config import (
    AutoencoderConfig,
    config_from_json,
)

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
WITHOUT = {"use_quant_conv": False, "use_post_quant_conv": False}
VARIANTS = {
    "sd": ("AutoencoderKL", {"latent_channels": 4}),
    "flux": (
        "AutoencoderKL",
        {
            "latent_channels": 3,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "latents_mean": None,
            **WITHOUT,
        },
    ),
    "each channel its own": (
        "AutoencoderKL",
        {
            "latent_channels": 2,
            "scaling_factor": 0.5,
            "latents_mean": (-1.5, 0.5),
            "latents_std": (8.0, 5.0),
        },
    ),
    "flux2": (
        "AutoencoderKLFlux2",
        {"latent_channels": 4, "decoder_block_out_channels": (8, 24)},
    ),
    "tiny": (
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8),
            "num_encoder_blocks": (1, 2, 3),
            "num_decoder_blocks": (3, 2, 1),
            "latent_channels": 5,
        },
    ),
}


def randomize(model):
    """Weights that keep the scale of what flows, norms and biases random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / fan_in**0.5)
        if hasattr(model, "bn"):
            variance = model.bn.running_var
            model.bn.running_mean.normal_(generator=generator)
            variance.uniform_(0.1, 3.0, generator=generator)
    return model.eval()


def build(name):
    """A diffusers model, and its weights as ours."""
    kind, options = VARIANTS[name]
    shape = {} if kind == "AutoencoderTiny" else SHAPE
    model = randomize(getattr(diffusers, kind)(**shape, **options))
    if name == "flux":  # log variances out of bounds
        with torch.no_grad():
            model.encoder.conv_out.bias[-2] = 40.0
            model.encoder.conv_out.bias[-1] = -50.0
    arrays = {key: value.numpy() for key, value in model.state_dict().items()}
    state = StateDict.from_arrays(arrays, config=dict(model.config))
    config, parameters, notes = load(state)
    assert notes == []
    return model, config, parameters


def normalised(model, mean):
    """(B, C, h, w) as the pipelines of diffusers hand it to the denoiser."""
    config = model.config
    if hasattr(model, "bn"):
        batch, channels, height, width = mean.shape
        grid = mean.reshape(batch, channels, height // 2, 2, width // 2, 2)
        patches = grid.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        patches = model.bn(patches)
        grid = patches.reshape(batch, channels, 2, 2, height // 2, width // 2)
        return grid.permute(0, 1, 4, 2, 5, 3).reshape(mean.shape)
    if config.get("latents_mean"):
        offset = torch.tensor(config.latents_mean).reshape(-1, 1, 1)
        deviation = torch.tensor(config.latents_std).reshape(-1, 1, 1)
        return (mean - offset) * config.scaling_factor / deviation
    return (mean - (config.shift_factor or 0)) * config.scaling_factor


def to_torch(array):
    return torch.from_numpy(np.asarray(array)).permute(0, 3, 1, 2)


def error(ours, theirs):
    """Largest deviation, of the largest value."""
    reference = theirs.permute(0, 2, 3, 1).numpy()
    assert ours.dtype == np.float32
    return np.abs(ours - reference).max() / np.abs(reference).max()


def images(height=16, width=24):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (2, height, width, 3)).astype("f4")


def runs(config, parameters, methods, precision="float32"):
    """Those methods as one compiled function of their arguments."""
    functional = functional_of(config, precision)

    @jax.jit
    def run(values, arguments):
        model = functional.merge(values)
        return [
            getattr(model, method)(argument)
            for method, argument in zip(methods, arguments, strict=True)
        ]

    return lambda *arguments: run(parameters, arguments)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "tiny"])
@torch.no_grad()
def test_kl_against_diffusers(name):
    model, config, parameters = build(name)
    distribution = model.encode(to_torch(images())).latent_dist
    latents = normalised(model, distribution.mean)
    run = runs(config, parameters, ("moments", "encode", "decode"))
    (mean, log_variance), encoded, decoded = run(
        images(), images(), latents.permute(0, 2, 3, 1).numpy()
    )
    assert error(mean, distribution.mean) < 1e-4
    assert error(log_variance, distribution.logvar) < 1e-4
    assert error(encoded, latents) < 1e-4
    assert error(decoded, model.decode(distribution.mean).sample) < 1e-4
    if name == "flux":
        assert log_variance.max() == 20
        assert log_variance.min() == -30


@torch.no_grad()
def test_tiny_against_diffusers():
    model, config, parameters = build("tiny")
    encode = to_torch(images())
    latents = model.encode(encode).latents
    # Far out as well, where the decoder clamps.
    far = 4 * latents
    run = runs(config, parameters, ("encode", "decode"))
    encoded, decoded = run(images(), far.permute(0, 2, 3, 1).numpy())
    assert (config.channels, config.factor) == (5, 4)
    assert error(encoded, latents) < 1e-5
    assert error(decoded, model.decode(far).sample) < 1e-5


@pytest.fixture(scope="module")
def sd():
    return build("sd")[1:]


def test_samples_have_the_mean_and_spread_of_the_moments(sd):
    config, parameters = sd
    functional = functional_of(config)

    @jax.jit
    def draw(values, pictures, key):
        model = functional.merge(values)
        mean, log_variance = model.moments(pictures)
        noise = jax.random.normal(key, mean.shape)
        drawn = model.sample(pictures, key), model.sample(pictures, noise)
        return mean + jnp.exp(log_variance / 2) * noise, *drawn

    expected, drawn, given = draw(parameters, images(), jax.random.key(3))
    np.testing.assert_allclose(drawn, expected * config.scale, rtol=1e-5)
    np.testing.assert_array_equal(drawn, given)


def test_bfloat16_is_close_and_differentiable(sd):
    config, parameters = sd
    latents = np.asarray(jax.random.normal(jax.random.key(0), (1, 4, 4, 4)))
    outputs, slopes = [], []
    for precision in ("float32", "bfloat16"):
        functional = functional_of(config, precision)

        def score(z, functional=functional):
            decoded = functional.merge(parameters).decode(z)
            return jnp.square(decoded).mean(), decoded

        slope, decoded = jax.jit(jax.grad(score, has_aux=True))(latents)
        assert decoded.dtype == slope.dtype == jnp.float32
        outputs.append(np.asarray(decoded))
        slopes.append(np.asarray(slope))
    for exact, rounded in (outputs, slopes):
        off = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
        assert 1e-4 < off < 0.05


# name -> entries and parameters
SIZES = {
    "sd": (248, 83_653_863),
    "sdxl": (248, 83_653_863),
    "sd3": (244, 83_819_683),
    "flux": (244, 83_819_683),
    "flux2": (250, 84_046_371),
    "taesd": (134, 2_445_063),
    "taesdxl": (134, 2_445_063),
    "taesd3": (134, 2_458_899),
    "taef1": (134, 2_458_899),
    "taef2": (158, 2_677_027),
}


@pytest.mark.parametrize("name", ["sd", "flux", "flux2", "taesd", "taef2"])
def test_sizes_of_presets(name):
    shapes = functional_of(AUTOENCODERS[name]).shapes()
    count = sum(math.prod(struct.shape) for struct in shapes.values())
    assert (len(shapes), count) == SIZES[name]
    assert AUTOENCODERS[name].factor == 8


def test_presets_are_values():
    assert AUTOENCODERS.keys() == {"pixels", *SIZES}
    for name in SIZES:
        preset = AUTOENCODERS[name]
        assert config_from_json(preset.to_json()) == preset
        assert hash(preset) == hash(dataclasses.replace(preset))
    each = AutoencoderConfig(channels=2, scale=(1.0, 2.0), shift=(0.0, 1.0))
    assert config_from_json(each.to_json()) == each
    assert config_from_json("{}") == AUTOENCODERS["sd"]


def test_pixels_are_their_own_latents():
    pixels = AUTOENCODERS["pixels"]
    assert isinstance(pixels, Pixels)
    assert (pixels.channels, pixels.factor) == (3, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "vq"}, 'use "kl" or "tiny"'),
        ({"blocks": [2, 2]}, "one number a level"),
        ({"widths": [128, 250, 512, 512]}, "do not divide 250"),
        ({"kind": "tiny"}, "same width in every level"),
        ({"widths": "wide"}, "widths is 'wide'"),
        ({"channels": 0}, "should all be positive"),
        ({"scale": [1.0, 2.0]}, "2 numbers for 4 channels"),
        ({"depth": 3}, "does not describe an autoencoder"),
    ],
)
def test_wrong_shapes_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        config_from_json(json.dumps(changes))


def test_sides_must_be_whole_latents():
    model = nnx.eval_shape(
        lambda: make_autoencoder(AUTOENCODERS["taesd"], rngs=nnx.Rngs(0))
    )
    with pytest.raises(UserError, match="multiples of 8"):
        model.encode(images(16, 20))
    flux2 = nnx.eval_shape(
        lambda: make_autoencoder(AUTOENCODERS["flux2"], rngs=nnx.Rngs(0))
    )
    with pytest.raises(UserError, match="multiples of 16"):
        flux2.encode(images(16, 24))
