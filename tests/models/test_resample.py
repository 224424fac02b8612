"""Bicubic matrices against torch.nn.functional.interpolate."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.models.resample import bicubic_matrix

torch = pytest.importorskip("torch")

SIZES = [(14, 16), (16, 14), (37, 16), (16, 37), (5, 30), (1, 7), (9, 1)]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_a_line_as_torch_does_it(offset, antialias):
    for inputs, outputs in SIZES:
        scale = (outputs + offset) / inputs if offset else 0.0
        ours = bicubic_matrix(outputs, inputs, scale=scale, antialias=antialias)
        assert ours.shape == (outputs, inputs)
        # Each row of the identity is a line along the width; the height
        # stays, which leaves it alone.
        lines = torch.eye(inputs).reshape(1, 1, inputs, inputs)
        size = {"scale_factor": (1.0, scale)} if scale else {}
        theirs = torch.nn.functional.interpolate(
            lines,
            mode="bicubic",
            align_corners=False,
            antialias=antialias,
            **(size or {"size": (inputs, outputs)}),
        )
        np.testing.assert_allclose(ours, theirs[0, 0].T, atol=1e-5)
        np.testing.assert_allclose(ours.sum(1), 1, atol=1e-6)


def test_no_change_is_no_change():
    for antialias in (False, True):
        same = bicubic_matrix(8, 8, antialias=antialias)
        np.testing.assert_allclose(same, np.eye(8), atol=1e-7)
