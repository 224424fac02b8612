"""torch's bicubic interpolation of a line, as a matrix.

A 2-D table (h, w) becomes A (H, h) @ table @ B (W, w)^T. `jax.image.resize`
has another cubic (a = -0.5), so published numbers need this one.
"""

import numpy as np


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (IEEE TASSP 29, 1981, Eq. 4 for any a)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bicubic_matrix(
    outputs: int, inputs: int, *, scale: float = 0.0, antialias: bool = False
) -> np.ndarray:
    """Weights of torch.nn.functional.interpolate along one axis.

    As mode="bicubic", align_corners=False. Plain, a is -0.75 and the border
    is repeated; with antialias a is -0.5, the kernel widens when shrinking,
    and the weights inside the border are brought to sum 1.

    `scale` is torch's `scale_factor`, which then takes the place of outputs /
    inputs in the coordinates; 0 where `size` is given. Returns float32
    (outputs, inputs), rows of sum 1.
    """
    step = 1 / scale if scale else inputs / outputs
    centres = (np.arange(outputs) + 0.5) * step - 0.5
    if antialias:
        distance = np.arange(inputs)[None] - centres[:, None]
        weights = _cubic(distance / max(step, 1.0), -0.5)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights.astype(np.float32)
    weights = np.zeros((outputs, inputs))
    rows = np.arange(outputs)
    for tap in range(-1, 3):
        column = np.floor(centres).astype(int) + tap
        inside = np.clip(column, 0, inputs - 1)
        np.add.at(weights, (rows, inside), _cubic(centres - column, -0.75))
    return weights.astype(np.float32)
