"""Priors of random weights and their folders of plain PyTorch, compared.

Every weight is random, the zero-initialised ones too, so each term of the
forward pass shows in the output.
"""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.inference.prior import Prior
from i2i_prior.interop import torch_folder
from i2i_prior.tasks.registry import make_task

torch = pytest.importorskip("torch")

# Of the largest value of the reference; guided steps add up roundings.
LIMIT, SAMPLE_LIMIT = 1e-5, 1e-4
PROVENANCE = {
    "name": "cats",
    "step": 7,
    "weights": "ema",
    "config_hash": "0123456789ab",
    "data_source": "folder:cats",
    "data_fingerprint": "feed",
}
# The runs whose samples are compared: a path, a prediction, a grid, a block
# and a condition each.
RUNS = {
    "modern": (
        "conditioner.tokens_from=pyramid",
        "encoder.image_size=12",  # 3 x 3 patches: cells overlap
        "sample.guidance_low=0.1",  # a time of the grid, in float32
        "sample.guidance_high=0.9",
    ),
    "lumos": (
        "model.block=lumos",
        "model.one_token=true",
        "conditioner.expand=1",
        "conditioner.null=random",
        "diffusion.path=ddpm_cosine",
        "diffusion.prediction=eps",
        "diffusion.learn_sigma=true",
        "sample.clip=1.0",
        "sample.lower_order_final=false",
    ),
    "pixart": (
        "model.block=pixart",
        "model.width=48",
        "model.size_conditions=true",
        "model.qk_norm=true",
        "model.base_size=3",
        "model.position_scale=2.0",
        "conditioner.tokens_from=tokens",
        "conditioner.length=5",
        "conditioner.embedding_width=24",
        "conditioner.expand=1",
        "encoder.kind=none",
        "diffusion.path=ddpm_linear",
        "diffusion.prediction=v",
        "sample.solver=ddim",
        "sample.null_mask=caption",
    ),
}


def randomised(shapes, seed=0):
    """Name -> float32 array; products keep the scale of their input."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        noise = rng.standard_normal(shape).astype("f4")
        if name.endswith("/kernel"):
            return noise / np.float32(shape[-2] ** 0.5)
        return noise / 3 + np.float32(name.endswith("/gain"))

    return {name: draw(name, tuple(s.shape)) for name, s in shapes.items()}


def open_module(folder):
    """The folder's own i2i_prior_torch.py."""
    spec = importlib.util.spec_from_file_location(
        "exported_prior", folder / "i2i_prior_torch.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported(config, folder, seed=0):
    """A prior of random weights, and what torch makes of its folder."""
    shapes = make_task(config).functional.shapes()
    parameters = randomised(shapes, seed)
    size = torch_folder.write_torch_folder(
        folder, parameters, config, PROVENANCE
    )
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    ours = Prior(config, jax.tree.map(jnp.asarray, parameters))
    return ours, open_module(folder).Prior.from_pretrained(folder)


def relative_error(found, reference):
    found, reference = np.asarray(found), np.asarray(reference)
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def nchw(array):
    return torch.from_numpy(np.asarray(array)).permute(0, 3, 1, 2)


def nhwc(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def pictures(side=12, count=2):
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def conditions(name, prior):
    """Tokens and the other doors of a run, as NumPy."""
    if name == "pixart":
        mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
        size = np.float32([[8, 8], [16, 4]])
        others = {"mask": mask, "size": size, "aspect": np.float32([[1], [4]])}
        return normal((2, 5, 24), 3), others
    side = prior.config.encoder.image_size
    return np.array(prior.embed(list(pictures(side)))), {}
