"""Resizing against the three libraries, on their own code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from i2i_prior.evaluation.features.presets import PRESETS, bilinear, pil_bicubic

torch = pytest.importorskip("torch")

LIMIT = 1e-3  # of 255
# height, width: enlarged, shrunk, not square, as it is, and hardly anything
SIZES = [(64, 64), (256, 256), (411, 320), (299, 299), (1, 2)]


def resize(images, name):
    rule = PRESETS[name].resize
    if rule == "pil_bicubic":
        return pil_bicubic(images, 299)
    return bilinear(images, 299, rule)


def _images(height, width):
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def _file(package, name):
    """File of a package that cannot be imported without torchvision."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed")
    path = Path(found.submodule_search_locations[0]) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{package}_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_adm_is_torch_fidelitys(height, width):
    images = _images(height, width)
    peer = _file("torch_fidelity", "interpolate_compat_tensorflow")
    wanted = peer.interpolate_bilinear_2d_like_tensorflow1x(
        _torch(images), (299, 299), align_corners=False
    )
    found = resize(images, "adm")
    assert found.shape == (2, 299, 299, 3)
    assert found.dtype == np.float32
    wanted = wanted.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LIMIT)
    np.testing.assert_array_equal(found, resize(images, "edm2"))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pytorch_fids_input_is_its_own(height, width):
    images = _images(height, width)
    scaled = torch.nn.functional.interpolate(
        _torch(images) / 255, (299, 299), mode="bilinear", align_corners=False
    )
    wanted = (2 * scaled - 1).permute(0, 2, 3, 1).numpy()
    preset = PRESETS["pytorch_fid"]
    found = preset.normalise(resize(images, "pytorch_fid"))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LIMIT / 127.5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_clean_is_clean_fids(height, width):
    images = _images(height, width)
    peer = _file("cleanfid", "resize").build_resizer("clean")
    wanted = np.stack([peer(image) for image in images])
    found = resize(images, "clean")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LIMIT)


def test_the_rules_are_three():
    images = _images(256, 256)
    adm, half, clean = (
        resize(images, name) for name in ("adm", "pytorch_fid", "clean")
    )
    assert np.abs(adm - half).mean() > 1
    assert np.abs(half - clean).mean() > 1


@pytest.mark.parametrize("name", ["adm", "pytorch_fid"])
def test_inside_a_compiled_program(name):
    images, rule = _images(80, 411), PRESETS[name].resize
    found = jax.jit(lambda x: bilinear(x, 299, rule))(images)
    np.testing.assert_allclose(found, resize(images, name), atol=LIMIT)
