"""Autoencoders of random weights in their published layouts."""

from __future__ import annotations

import numpy as np

from i2i_prior.interop.autoencoders import export, functional_of


def random_parameters(config):
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(struct.shape).astype("f4")
        for name, struct in functional_of(config).shapes().items()
    }


def exported(config, layout, parameters=None):
    """Random weights of a config, written in a layout."""
    parameters = parameters or random_parameters(config)
    tensors = dict(export(parameters, config, layout))
    arrays = {key: tensor.read() for key, tensor in tensors.items()}
    for key, tensor in tensors.items():
        assert arrays[key].shape == tensor.shape
    return arrays


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[key], theirs[key]) for key in ours
    )
