"""The real TAEF2: its photographs and its files, against the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i2i_prior.data.builtin import PhotoSource
from i2i_prior.interop.autoencoders import functional_of, load_files
from i2i_prior.interop.files.state_dicts import read_state_dict
from i2i_prior.models.autoencoder import AUTOENCODERS
from tests.interop.fixtures_autoencoders import exported, same

SHARED = Path(__file__).parents[2].parent / "shared"


@pytest.fixture(scope="module")
def taef2():
    """The two published files of TAEF2."""
    folder = SHARED / "data" / "weights"
    files = [folder / f"taef2_{half}.pth" for half in ("encoder", "decoder")]
    if not all(file.is_file() for file in files):
        pytest.skip("the TAEF2 weights are not in ../shared/data/weights")
    return files


def photograph(side):
    """A centre crop of a held-out photograph, float32 in [-1, 1]."""
    pixels = PhotoSource("photos/heldout")[0].data
    top, left = ((size - side) // 2 for size in pixels.shape[:2])
    crop = pixels[top : top + side, left : left + side]
    return crop[None].astype("f4") / 127.5 - 1


def restated(torch, path, decoder):
    """The original network of one file, on images in [0, 1]."""
    nn = torch.nn
    weights = {
        key: value.float()
        for key, value in torch.load(path, weights_only=True).items()
    }

    class Block(nn.Module):
        def __init__(self, pooled):
            super().__init__()
            self.conv = nn.Sequential(
                nn.Conv2d(64, 64, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, padding=1),
            )
            if pooled:
                self.pool = nn.Sequential(
                    nn.Conv2d(64, 256, 1, bias=False),
                    nn.GroupNorm(4, 256),
                    nn.ReLU(),
                    nn.Conv2d(256, 64, 1, bias=False),
                )

        def forward(self, x):
            if hasattr(self, "pool"):
                x = x + self.pool(x)
            return torch.relu(self.conv(x) + x)

    class Clamp(nn.Module):
        def forward(self, x):
            return torch.tanh(x / 3) * 3

    layers = []
    for number in range(max(int(key.split(".")[0]) for key in weights) + 1):
        if f"{number}.conv.0.weight" in weights:
            layers.append(Block(f"{number}.pool.0.weight" in weights))
        elif f"{number}.weight" in weights:
            outputs, inputs = weights[f"{number}.weight"].shape[:2]
            bias = f"{number}.bias" in weights
            stride = 1 if bias or decoder else 2
            layers.append(
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
            )
        elif number == 0:
            layers.append(Clamp())
        elif number == 2:
            layers.append(nn.ReLU())
        else:
            layers.append(nn.Upsample(scale_factor=2))
    network = nn.Sequential(*layers)
    network.load_state_dict(weights)
    return network


def psnr(reference, image):
    """Decibels of images in [-1, 1], clipped as they would be shown."""
    error = np.clip(image, -1, 1) - reference
    return -10 * np.log10(np.mean(np.square(error / 2)))


def test_taef2_reconstructs_a_photograph_as_the_original_does(taef2):
    torch = pytest.importorskip("torch")
    config, parameters, _ = load_files("{},{}".format(*taef2))
    assert config == AUTOENCODERS["taef2"]
    autoencoder = functional_of(config).merge(parameters)
    pixels = photograph(64)
    latents = np.asarray(autoencoder.encode(pixels))
    decoded = np.asarray(autoencoder.decode(latents))
    assert latents.shape == (1, 8, 8, 32)
    assert 0.6 < latents.std() < 1.2

    encoder, decoder = (
        restated(torch, path, decoder)
        for path, decoder in zip(taef2, (False, True), strict=True)
    )
    with torch.no_grad():
        z = encoder(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 2 + 0.5)
        image = decoder(z).permute(0, 2, 3, 1).numpy() * 2 - 1
    z = z.permute(0, 2, 3, 1).numpy()
    assert np.abs(latents - z).max() < 1e-4 * np.abs(z).max()
    assert np.abs(decoded - image).max() < 1e-4 * np.abs(image).max()
    assert psnr(pixels, decoded) > 25
    assert abs(psnr(pixels, decoded) - psnr(pixels, image)) < 0.01


def test_taef2_goes_back_to_its_files_exactly(taef2):
    config, parameters, _ = load_files("{},{}".format(*taef2))
    for path, half in zip(taef2, ("encoder", "decoder"), strict=True):
        theirs = {
            key: array.astype("f4")
            for key, array in read_state_dict(path).items()
        }
        written = exported(config, f"taesd-{half}", parameters)
        assert same(written, theirs)
