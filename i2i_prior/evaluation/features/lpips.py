"""LPIPS: perceptual distance of two images by the features of a network.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", CVPR 2018, version 0.1: at five depths of a trunk, features brought
to length 1 over the channels, their squared difference weighed per channel by
a trained head, averaged over the pixels, and summed. Values of the two trunks
do not compare, so the name of the trunk belongs to the number.

Weights are a file of trunk and heads together:

    torch.save(lpips.LPIPS(net="alex").state_dict(), "lpips_alex.pth")
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.inception import convolve, max_pool
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.interop.files.state_dicts import read_state_dict

Array = jax.Array

# Of RGB in [-1, 1], as the official code has them.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-10


class _Trunk(NamedTuple):
    """Torchvision network in five parts."""

    # Of each, the indices of its convolutions in `features`, with
    # (out, in, kernel, stride).
    slices: tuple[dict[int, tuple[int, int, int, int]], ...]
    pool: int  # side of a max pool of stride 2
    pooled: tuple[int, ...]  # the parts after one


_TRUNKS = {
    "alex": _Trunk(
        (
            {0: (64, 3, 11, 4)},
            {3: (192, 64, 5, 1)},
            {6: (384, 192, 3, 1)},
            {8: (256, 384, 3, 1)},
            {10: (256, 256, 3, 1)},
        ),
        3,
        (1, 2),
    ),
    "vgg": _Trunk(
        (
            {0: (64, 3, 3, 1), 2: (64, 64, 3, 1)},
            {5: (128, 64, 3, 1), 7: (128, 128, 3, 1)},
            {10: (256, 128, 3, 1)} | {i: (256, 256, 3, 1) for i in (12, 14)},
            {17: (512, 256, 3, 1)} | {i: (512, 512, 3, 1) for i in (19, 21)},
            {i: (512, 512, 3, 1) for i in (24, 26, 28)},
        ),
        2,
        (1, 2, 3, 4),
    ),
}


@dataclass(frozen=True)
class Lpips:
    """Trunk with its heads."""

    trunk: str  # "alex" or "vgg"
    parameters: Mapping[str, np.ndarray] = field(repr=False)
    identity: Mapping[str, Any]  # trunk, version, SHA-256 of the file

    @property
    def label(self) -> str:
        """Name of the distance, "LPIPS-alex" or "LPIPS-vgg"."""
        return f"LPIPS-{self.trunk}"

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances of pairs, float32 (N,), 0 for equal images.

        Of uint8 (N, H, W, 3), both of one size, 32 pixels a side or more (the
        trunks downsample 16 times); UserError for others.
        """
        if a.shape != b.shape or min(a.shape[1:3]) < 32:
            raise UserError(
                "LPIPS compares images of one size, 32 pixels a side or more,"
                f" not {a.shape} and {b.shape}."
            )
        return np.asarray(_distances(self.trunk, self.parameters, a, b))


def load_lpips(path: str | Path) -> Lpips:
    """Loads a network from a file, see the head of this module.

    UserError where it is missing, of another network, or not finite.
    """
    state = read_state_dict(path)
    held = state.shapes.items()
    names = [n for n, t in _TRUNKS.items() if _shapes(t).items() <= held]
    if not names:
        raise UserError(
            f"{path} holds no LPIPS network over AlexNet or VGG with its "
            "heads; save lpips.LPIPS(net='alex').state_dict()."
        )
    name = names[0]
    shapes = _shapes(_TRUNKS[name])
    arrays = {key: np.asarray(state[key], np.float32) for key in shapes}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UserError(f"{path} holds NaN or infinity; fetch it again.")
    parameters = {
        key: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        for key, array in arrays.items()
    }
    identity = {
        "network": f"LPIPS-{name}",
        "version": "0.1",
        "weights_sha256": hash_of(path),
    }
    return Lpips(name, parameters, identity)


def _shapes(trunk: _Trunk) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part, units in enumerate(trunk.slices):
        for index, (out, inputs, kernel, _) in units.items():
            key = f"net.slice{part + 1}.{index}"
            shapes[f"{key}.weight"] = (out, inputs, kernel, kernel)
            shapes[f"{key}.bias"] = (out,)
        shapes[f"lin{part}.model.1.weight"] = (1, out, 1, 1)
    return shapes


@functools.partial(jax.jit, static_argnums=0)
def _distances(
    name: str, parameters: Mapping[str, Array], a: Array, b: Array
) -> Array:
    total = jnp.zeros(len(a))
    x = jnp.concatenate([a, b]).astype(jnp.float32) / 127.5 - 1
    x = (x - _SHIFT) / _SCALE
    trunk = _TRUNKS[name]
    for part, units in enumerate(trunk.slices):
        if part in trunk.pooled:
            x = max_pool(x, side=trunk.pool)
        for index, (_, _, side, stride) in units.items():
            key = f"net.slice{part + 1}.{index}"
            # only AlexNet's first layer does not keep the size
            edge = 2 if stride > 1 else side // 2
            padding = ((edge, edge), (edge, edge))
            kernel = parameters[f"{key}.weight"]
            found = convolve(kernel, x, padding, stride)
            x = jax.nn.relu(found + parameters[f"{key}.bias"])
        unit = x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + _EPSILON)
        first, second = jnp.split(unit, 2)
        head = parameters[f"lin{part}.model.1.weight"].ravel()
        weighed = ((first - second) ** 2 * head).sum(-1)
        total = total + weighed.mean((1, 2))
    return total
