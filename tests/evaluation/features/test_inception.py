"""Every tap against torch-fidelity's network over the same random weights."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.inception import TAPS, features, fold
from i2i_prior.evaluation.features.inception_weights import (
    InceptionWeights,
    inception_extractor,
)
from i2i_prior.evaluation.features.presets import PRESETS
from tests.peers.torch_inception import random_state, torch_fidelity_inception

torch = pytest.importorskip("torch")

LIMIT = 1e-5  # relative, in the 2-norm
THEIRS = {"pool3": "2048"}  # the other taps have their names


@pytest.fixture(scope="module")
def weights():
    return InceptionWeights(random_state(), "ab" * 32, "cd" * 32)


@pytest.fixture(scope="module")
def ours(weights, images):
    extractor = inception_extractor(weights, PRESETS["adm"], tuple(TAPS))
    prepared = extractor.prepare(images)
    return jax.jit(extractor.apply)(extractor.parameters, prepared)


@pytest.fixture(scope="module")
def images():
    # one of few frequencies and one of noise
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, 5, 6, 3)).repeat(16, 1).repeat(16, 2)
    noise = rng.integers(0, 256, coarse.shape)
    return np.concatenate([coarse, noise]).astype(np.uint8)


@pytest.fixture(scope="module")
def theirs(weights, images):
    names = [THEIRS.get(tap, tap) for tap in TAPS if tap != "spatial"]
    try:
        network = torch_fidelity_inception(weights.state, names)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    maps = {}
    network.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, inputs, output: maps.update(spatial=output)
    )
    with torch.inference_mode():
        found = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    taps = dict(zip(names, found, strict=True))
    spatial = maps["spatial"][:, :7].permute(0, 2, 3, 1).flatten(1)
    return {**taps, "spatial": spatial}


@pytest.mark.parametrize("tap", TAPS)
def test_a_tap_is_torch_fidelitys(tap, ours, theirs):
    found = np.asarray(ours[tap])
    wanted = theirs[THEIRS.get(tap, tap)].numpy()
    assert found.dtype == np.float32
    assert found.shape == wanted.shape == (2, TAPS[tap])
    for row in range(2):
        error = np.linalg.norm(found[row] - wanted[row])
        assert error <= LIMIT * np.linalg.norm(wanted[row])
    # so that equal means something: the two images are told apart
    assert np.linalg.norm(wanted[0] - wanted[1]) > 1e-2 * np.linalg.norm(wanted)


def test_nothing_else_is_computed(weights):
    """Checks that the program of the first tap has three convolutions."""
    extractor = inception_extractor(weights, PRESETS["adm"], ("64",))
    prepared = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    program = jax.jit(extractor.apply).lower(extractor.parameters, prepared)
    assert program.as_text().count("stablehlo.convolution") == 3


def test_weights_without_the_last_layer(weights):
    bare = {k: v for k, v in weights.state.items() if k[:3] != "fc."}
    pixels = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    found = jax.eval_shape(features, fold(bare), pixels)
    assert set(found) == {tap for tap in TAPS if "logits" not in tap}
    headless = InceptionWeights(bare, "", "")
    with pytest.raises(UserError, match="last layer"):
        inception_extractor(headless, PRESETS["adm"], ("pool3", "logits"))
