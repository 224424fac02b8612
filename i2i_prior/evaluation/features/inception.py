"""Inception-v3 of FID: the TensorFlow graph of 2015-12-05.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
CVPR 2016, with the peculiarities of that graph: average pools with a divisor
without padding, a max pool in the last block, BatchNorm with eps 1e-3, no
auxiliary head, and 1008 classes.

Two rearrangements, exact but for rounding, make it faster than the published
graph. BatchNorm is folded into the kernels (`fold`). And all 1 x 1
convolutions of a block that read its input are one; the average pool, which
is linear, comes after its convolution, with fewer channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Parameters = Mapping[str, Array]

SIZE = 299  # pixels a side
CLASSES = 1008
# tap -> numbers. Maps are averaged over their pixels; "spatial" is ADM's:
# seven channels of a 17 x 17 map, in the order (row, column, channel).
TAPS = {
    "pool3": 2048,
    "spatial": 7 * 17 * 17,
    "logits_unbiased": CLASSES,
    "logits": CLASSES,
    "768": 768,
    "192": 192,
    "64": 64,
}
_EPSILON = 1e-3

# block -> its 1 x 1 convolutions that read the block's own input.
_A = ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool")
_C = ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool")
_E = ("branch1x1", "branch3x3_1", "branch3x3dbl_1")
ENTRIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _A),
    "Mixed_6a": ("branch3x3dbl_1",),
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _C),
    "Mixed_7a": ("branch3x3_1", "branch7x7x3_1"),
    "Mixed_7b": (*_E, "branch_pool"),
    "Mixed_7c": _E,  # its pool takes maxima, and so comes first
}


def fold(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts the published arrays to those of `features`.

    Args:
      state: UNIT.conv.weight (out, in, height, width), UNIT.bn.weight, bias,
        running_mean and running_var (out,), and fc.weight (1008, 2048) and
        fc.bias (1008,), which are optional.

    Returns:
      float32: UNIT.kernel (height, width, in, out) and UNIT.bias (out,) of
      convolution and BatchNorm together, the units of `ENTRIES` in one as
      BLOCK.entry; fc.kernel (2048, 1008) and fc.bias.
    """
    found = {}
    kernels = [key for key in state if key.endswith(".conv.weight")]
    for unit in (key.removesuffix(".conv.weight") for key in kernels):
        norm = {
            part: np.asarray(state[f"{unit}.bn.{part}"], np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        scale = norm["weight"] / np.sqrt(norm["running_var"] + _EPSILON)
        kernel = np.asarray(state[f"{unit}.conv.weight"], np.float64)
        found[f"{unit}.kernel"] = kernel.transpose(2, 3, 1, 0) * scale
        found[f"{unit}.bias"] = norm["bias"] - norm["running_mean"] * scale
    for block, branches in ENTRIES.items():
        for part in ("kernel", "bias"):
            parts = [found.pop(f"{block}.{b}.{part}") for b in branches]
            found[f"{block}.entry.{part}"] = np.concatenate(parts, axis=-1)
    if "fc.weight" in state:
        found["fc.kernel"] = np.asarray(state["fc.weight"]).T
        found["fc.bias"] = np.asarray(state["fc.bias"])
    return {k: np.asarray(array, np.float32) for k, array in found.items()}


def features(p: Parameters, x: Array) -> dict[str, Array]:
    """Computes all taps; under `jax.jit` unused ones are not computed.

    From parameters of `fold` and x float32 (N, 299, 299, 3), about [-1, 1],
    see `Preset.normalise`, to TAPS -> float32 (N, numbers); no logits without
    fc.
    """
    taps = {}
    x = _unit(p, "Conv2d_1a_3x3", x, stride=2)
    x = _unit(p, "Conv2d_2a_3x3", x, "CROP")
    x = _unit(p, "Conv2d_2b_3x3", x, "SAME")
    x = max_pool(x)
    taps["64"] = x.mean((1, 2))
    x = _unit(p, "Conv2d_3b_1x1", x)
    x = _unit(p, "Conv2d_4a_3x3", x, "CROP")
    x = max_pool(x)
    taps["192"] = x.mean((1, 2))
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _block_a(p, block, x)
    x = _block_b(p, "Mixed_6a", x)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = _block_c(p, block, x)
        if block == "Mixed_6d":  # the output of its branch1x1 comes first
            taps["spatial"] = x[..., :7].reshape(len(x), -1)
    taps["768"] = x.mean((1, 2))
    x = _block_d(p, "Mixed_7a", x)
    x = _block_e(p, "Mixed_7b", x)
    x = _block_e(p, "Mixed_7c", x)
    taps["pool3"] = pool3 = x.mean((1, 2))
    if "fc.kernel" in p:
        bare = jnp.dot(pool3, p["fc.kernel"], precision=lax.Precision.HIGHEST)
        taps["logits_unbiased"] = bare
        taps["logits"] = bare + p["fc.bias"]
    return taps


def _block_a(p: Parameters, name: str, x: Array) -> Array:
    one, five, three, pool = _entry(p, name, x, (64, 48, 64))
    five = _unit(p, f"{name}.branch5x5_2", five, "SAME")
    three = _unit(p, f"{name}.branch3x3dbl_2", three, "SAME")
    three = _unit(p, f"{name}.branch3x3dbl_3", three, "SAME")
    return jnp.concatenate([one, five, three, pool], -1)


def _block_b(p: Parameters, name: str, x: Array) -> Array:
    three = _unit(p, f"{name}.branch3x3", x, stride=2)
    double = _unit(p, f"{name}.entry", x)
    double = _unit(p, f"{name}.branch3x3dbl_2", double, "SAME")
    double = _unit(p, f"{name}.branch3x3dbl_3", double, stride=2)
    return jnp.concatenate([three, double, max_pool(x)], -1)


def _block_c(p: Parameters, name: str, x: Array) -> Array:
    width = p[f"{name}.branch7x7_2.kernel"].shape[2]
    one, seven, double, pool = _entry(p, name, x, (192, width, width))
    for part in ("2", "3"):
        seven = _unit(p, f"{name}.branch7x7_{part}", seven, "SAME")
    for part in ("2", "3", "4", "5"):
        double = _unit(p, f"{name}.branch7x7dbl_{part}", double, "SAME")
    return jnp.concatenate([one, seven, double, pool], -1)


def _block_d(p: Parameters, name: str, x: Array) -> Array:
    three, seven = jnp.split(_unit(p, f"{name}.entry", x), (192,), -1)
    three = _unit(p, f"{name}.branch3x3_2", three, stride=2)
    for part in ("2", "3"):
        seven = _unit(p, f"{name}.branch7x7x3_{part}", seven, "SAME")
    seven = _unit(p, f"{name}.branch7x7x3_4", seven, stride=2)
    return jnp.concatenate([three, seven, max_pool(x)], -1)


def _block_e(p: Parameters, name: str, x: Array) -> Array:
    if name == "Mixed_7c":
        units = _unit(p, f"{name}.entry", x)
        one, three, double = jnp.split(units, (320, 704), -1)
        pool = _unit(p, f"{name}.branch_pool", max_pool(x, 1, "SAME"))
    else:
        one, three, double, pool = _entry(p, name, x, (320, 384, 448))
    double = _unit(p, f"{name}.branch3x3dbl_2", double, "SAME")
    threes = [
        _unit(p, f"{name}.branch{part}", branch, "SAME")
        for part, branch in (
            ("3x3_2a", three),
            ("3x3_2b", three),
            ("3x3dbl_3a", double),
            ("3x3dbl_3b", double),
        )
    ]
    return jnp.concatenate([one, *threes, pool], -1)


def _entry(
    p: Parameters, name: str, x: Array, widths: tuple[int, int, int]
) -> list[Array]:
    """Outputs of the block's 1 x 1 units, the last after an average pool."""
    found = convolve(p[f"{name}.entry.kernel"], x)
    bounds = np.cumsum(widths)
    *units, pool = jnp.split(found, bounds, -1)
    units.append(_average_pool(pool))
    biases = jnp.split(p[f"{name}.entry.bias"], bounds)
    pairs = zip(units, biases, strict=True)
    return [jax.nn.relu(unit + bias) for unit, bias in pairs]


def _unit(
    p: Parameters, name: str, x: Array, padding: str = "VALID", stride: int = 1
) -> Array:
    if padding == "CROP":
        # equal to VALID, 3 x 3, in a fourth of the time on XLA's CPU
        found = convolve(p[f"{name}.kernel"], x, "SAME")[:, 1:-1, 1:-1]
    else:
        found = convolve(p[f"{name}.kernel"], x, padding, stride)
    return jax.nn.relu(found + p[f"{name}.bias"])


def convolve(
    kernel: Array, x: Array, padding: Any = "VALID", stride: int = 1
) -> Array:
    """Convolution of maps (N, H, W, C), the kernel (height, width, in, out)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # bfloat16 operands, a TPU's default, move pool3 by 0.4 %
        precision=lax.Precision.HIGHEST,
    )


def max_pool(
    x: Array, stride: int = 2, padding: str = "VALID", side: int = 3
) -> Array:
    """Maximum over side x side pixels."""
    window, strides = (1, side, side, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def _average_pool(x: Array) -> Array:
    """Average over those of 3 x 3 pixels that lie inside the image."""

    def sums(x: Array, axis: int) -> Array:
        widths = [(int(a == axis),) * 2 for a in range(x.ndim)]
        padded = jnp.pad(x, widths)
        length = x.shape[axis]
        parts = [
            lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(3)
        ]
        return parts[0] + parts[1] + parts[2]

    counts = sums(sums(jnp.ones((1, *x.shape[1:3], 1), x.dtype), 1), 2)
    return sums(sums(x, 1), 2) / counts
