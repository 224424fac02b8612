"""torch-fidelity's Inception-v3 over random weights.

Importing the package imports torchvision, whose wheel does not fit every
torch. The network needs neither: so the package is put up empty, as long as
the one file with it is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from i2i_prior.evaluation.features.inception_layout import published_shapes


def random_state(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the published names that keep activations near 1."""
    rng = np.random.default_rng(seed)

    def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key.endswith("bn.weight"):
            return rng.uniform(0.8, 1.2, shape)
        if key.endswith("running_var"):
            return rng.uniform(0.5, 1.5, shape)
        if len(shape) == 1:
            return 0.1 * rng.standard_normal(shape)
        gain = 1 if key == "fc.weight" else 2  # He's, before a ReLU
        fan_in = np.prod(shape[1:])
        return rng.standard_normal(shape) * np.sqrt(gain / fan_in)

    return {
        key: draw(key, shape).astype(np.float32)
        for key, shape in published_shapes().items()
    }


def torch_fidelity_inception(
    state: dict[str, np.ndarray], taps: Sequence[str]
) -> Any:
    """The module: uint8 (N, 3, H, W) -> a tuple of `taps`, float32.

    Args:
      state: of `random_state`.
      taps: of "64", "192", "768", "2048", "logits_unbiased" and "logits".

    Raises:
      ModuleNotFoundError: where torch-fidelity is not installed.
    """
    import torch

    file = _network_file()
    file.load_state_dict_from_url = lambda *_, **__: {}

    class Empty(file.FeatureExtractorInceptionV3):
        """An empty state dict in place of weights that would be fetched."""

        def load_state_dict(self, *_: Any, **__: Any) -> None:
            return None

    network = Empty("inception-v3-compat", list(taps))
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    found = torch.nn.Module.load_state_dict(network, tensors, strict=False)
    counters = "num_batches_tracked"
    assert not found.unexpected_keys
    assert all(key.endswith(counters) for key in found.missing_keys)
    return network


def _network_file() -> Any:
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        raise ModuleNotFoundError("torch-fidelity is not installed")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations or ())
    before = _taken_out()
    sys.modules["torch_fidelity"] = package
    try:
        name = "torch_fidelity.feature_extractor_inceptionv3"
        return importlib.import_module(name)
    finally:
        _taken_out()
        sys.modules.update(before)


def _taken_out() -> dict[str, types.ModuleType]:
    names = [n for n in sys.modules if n.split(".")[0] == "torch_fidelity"]
    return {name: sys.modules.pop(name) for name in names}
