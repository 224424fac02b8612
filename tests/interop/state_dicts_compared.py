"""State dicts of torch and of this package: the same to the bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from i2i_prior.interop.files.state_dicts import StateDict

torch = pytest.importorskip("torch")

BFLOAT16 = ml_dtypes.bfloat16
# What a test wants, of shape (2,), and what it does not, of (2, 2).
W, B = np.ones((2, 2), np.float32), np.zeros(2, np.float32)


def numpy_of(tensor) -> np.ndarray:
    """A torch tensor as numpy has it, bfloat16 included."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def same(state: StateDict, tensors) -> None:
    """Keys, shapes, dtypes and every bit."""
    assert list(state) == list(tensors)
    for key, tensor in tensors.items():
        wanted, found = numpy_of(tensor), state[key]
        assert found.dtype == wanted.dtype, key
        assert state.dtypes[key] == wanted.dtype.name
        assert found.shape == wanted.shape == state.shapes[key], key
        assert np.array_equal(found, wanted, equal_nan=found.dtype != bool)
