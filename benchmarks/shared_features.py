"""MobileNetV2 features of the shared test data, for `evaluate --features`.

    i2i-prior evaluate --workdir RUN --num-samples 2000 \
        --features benchmarks/shared_features.py:mobilenet_v2

Needs the project's shared data beside the checkout (../shared); the Frechet
distance over these features is named after this file, never FID.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np

from i2i_prior.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared"


@functools.cache
def _network():
    tool = SHARED / "tools" / "mobilenet_features.py"
    weights = SHARED / "data" / "weights" / "mobilenet_v2.safetensors"
    if not (tool.is_file() and weights.is_file()):
        raise UserError(f"these features need {tool} and {weights}")
    spec = importlib.util.spec_from_file_location("mobilenet_features", tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.load(weights)


def mobilenet_v2(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) -> float32 (N, 1280), ImageNet-trained."""
    module, parameters = _network()
    return module.features(parameters, images)
