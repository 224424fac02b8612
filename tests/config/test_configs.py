"""Every shipped config loads, validates and builds."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from i2i_prior.config import load_config
from i2i_prior.tasks.registry import make_task
from i2i_prior.training.validate import validate

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path):
    random = ["encoder.weights=random"]
    if path.stem.startswith("lumos"):
        random.append("autoencoder.weights=random")
    config = load_config(str(path), random)
    validate(config, devices=1)
    task = make_task(config)
    params, frozen = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(np.prod(p.shape) for p in params.values()) > 2e5
    assert not set(params) & set(frozen)
