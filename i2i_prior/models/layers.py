"""The small parts: precision, matmul, linear, norms, MLPs, embeddings.

Arrays in, arrays out. Kernels are stored 2-D as (in, out) and a matmul runs
on (rows, features): XLA's CPU and TPU back ends both prefer that to batched
products (measured: 1.3x on CPU, half the compile time on TPU).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from i2i_prior.parallel.layout import TOKENS, constrain, platform, shards
from i2i_prior.parallel.mesh import BATCH, CONTEXT, TENSOR

# Names of what remat policies may keep.
ATTENTION, HIDDEN, DOT = "attention", "hidden", "dot"

Array = jax.Array
Initializer = Callable[..., Array]  # (key, shape, dtype=float32)


@dataclass(frozen=True)
class Precision:
    """What activations are kept in and what matrix units are fed.

    Parameters are always float32; norms, softmax and sums always run in
    float32.

    Attributes:
      activations: dtype of the residual stream and of layer outputs.
      operands: dtype of both matmul operands; products are accumulated in
        float32.
    """

    activations: jnp.dtype
    operands: jnp.dtype


PRECISIONS: dict[str, Precision] = {
    "float32": Precision(jnp.dtype("float32"), jnp.dtype("float32")),
    "bfloat16": Precision(jnp.dtype("bfloat16"), jnp.dtype("bfloat16")),
    # float32 activations, bfloat16 products: 3x the float32 rate on CPUs with
    # avx512_bf16, without rounding the residual stream.
    "bfloat16_matmul": Precision(jnp.dtype("float32"), jnp.dtype("bfloat16")),
}
FLOAT32 = PRECISIONS["float32"]


def _dot(a: Array, b: Array, contract: tuple, dtype) -> Array:
    """Product over some axes of each, float32 accumulation and result."""
    exact = dtype == jnp.float32
    return jax.lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (contract, ((), ())),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.float32,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: Array, kernel: Array, operands: jnp.dtype) -> Array:
    """x (..., in) @ kernel (in, out) -> float32 (..., out).

    Both operands are rounded to `operands`, in the backward pass too (plain
    autodiff would multiply a float32 cotangent with a bfloat16 operand).
    """
    return _dot(x, kernel, ((x.ndim - 1,), (0,)), operands)


def _matmul_forward(x, kernel, operands):
    # The residuals keep the rounded operands: half the memory in bfloat16.
    rounded = x.astype(operands)
    types = (jnp.zeros((), x.dtype), jnp.zeros((), kernel.dtype))
    return matmul(rounded, kernel, operands), (rounded, kernel, types)


def _matmul_backward(operands, residuals, cotangent):
    x, kernel, (x_type, kernel_type) = residuals
    rows = tuple(range(x.ndim - 1))
    dx = _dot(cotangent, kernel, ((x.ndim - 1,), (1,)), operands)
    plain = functools.partial(_dot, contract=(rows, rows), dtype=operands)
    if operands == jnp.float32 or x.ndim != 2 or platform() != "cpu":
        dkernel = plain(x, cotangent)
    else:
        dkernel = _transposed_dot(x, cotangent, operands)
    return dx.astype(x_type.dtype), dkernel.astype(kernel_type.dtype)


def _transposed_dot(a: Array, b: Array, dtype) -> Array:
    """a^T b in bfloat16 for XLA's CPU back end, 2-D in and out.

    Its bfloat16 kernels (3x the rate) want the summed axis last on the left.
    A plain transpose would be folded back into the product, one through
    three axes stays: 1.2x on a training step. (In float32 it costs more than
    it brings.) The barrier keeps a consumer that transposes the result from
    turning this into a product the back end does not have.
    """
    rows, columns = a.shape
    inner = math.gcd(columns, 16)
    a = a.astype(dtype).reshape(rows, columns // inner, inner)
    a = a.transpose(1, 2, 0).reshape(columns, rows)
    return jax.lax.optimization_barrier(_dot(a, b, ((1,), (0,)), dtype))


matmul.defvjp(_matmul_forward, _matmul_backward)


def xavier(fan_in: int, fan_out: int) -> Initializer:
    """Xavier-uniform with explicit fans (fused kernels keep theirs)."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normal(std: float) -> Initializer:
    """Gaussian with the given standard deviation."""

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return std * jax.random.normal(key, shape, dtype)

    return init


def zeros(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """All zeros, with an initializer's signature."""
    return jnp.zeros(shape, dtype)


class Linear(nnx.Module):
    """y = x @ kernel + bias over the last axis.

    Args:
      inputs, outputs: feature counts.
      init: kernel initializer; Xavier-uniform when None.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
        init: Initializer | None = None,
        bias: bool = True,
    ):
        init = init or xavier(inputs, outputs)
        self.kernel = nnx.Param(
            init(rngs.params(), (inputs, outputs), jnp.float32)
        )
        self.bias = nnx.Param(jnp.zeros((outputs,))) if bias else None
        self.precision = precision

    def __call__(self, x: Array) -> Array:
        """x (..., inputs) -> (..., outputs) in the activation dtype."""
        bias = None if self.bias is None else self.bias[...]
        return self._apply(x, self.kernel[...], bias)

    def split(self, x: Array, parts: int) -> list[Array]:
        """x (..., inputs) -> `parts` equal pieces of the output.

        What jnp.split of the output gives. Where `parallel.sharding` has
        taken the kernel apart, so that each tensor shard has columns of every
        piece, each piece is a product of its own.
        """
        kernel = self.kernel[...]
        if kernel.ndim == 2:
            return jnp.split(self(x), parts, axis=-1)
        biases: list[Any] = [None] * parts
        if self.bias is not None:
            biases = jnp.split(self.bias[...], parts)
        return [
            self._apply(x, kernel[:, part], biases[part])
            for part in range(parts)
        ]

    def _apply(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        # Sharded tokens do not merge with the sharded batch.
        merge = shards(*TOKENS) == 1
        rows = x.reshape(-1, x.shape[-1]) if merge else x
        y = matmul(rows, kernel, self.precision.operands)
        if bias is not None:
            y = y + bias
        y = y.astype(self.precision.activations)
        y = y.reshape(*x.shape[:-1], y.shape[-1])
        return checkpoint_name(y, DOT)


def layer_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """LayerNorm without affine over the last axis, computed in float32."""
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon)


class LayerNorm(nnx.Module):
    """LayerNorm with gain and bias, in float32."""

    def __init__(self, width: int, epsilon: float = 1e-6):
        self.gain = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """x (..., width) -> float32 (..., width)."""
        return layer_norm(x, self.epsilon) * self.gain[...] + self.bias[...]


def rms_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """RMSNorm (arXiv 1910.07467 Eq. 4) without gain, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """x (B, N, D) * (1 + scale) + shift, both (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def gelu_tanh(x: Array) -> Array:
    """GELU in its tanh approximation (arXiv 1606.08415 section 2)."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), OpenAI's GELU (arXiv 1606.08415 section 2)."""
    return x * jax.nn.sigmoid(1.702 * x)


def _hidden(x: Array) -> Array:
    """Hidden channels, known to remat policies and apart on tensor."""
    if x.ndim == 3:
        x = constrain(x, BATCH, CONTEXT, TENSOR)
    return checkpoint_name(x, HIDDEN)


class Mlp(nnx.Module):
    """Linear -> activation -> Linear."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
        init: Initializer | None = None,
        activation: Callable[[Array], Array] = gelu_tanh,
    ):
        options: dict[str, Any] = {
            "rngs": rngs,
            "precision": precision,
            "init": init,
        }
        self.fc1 = Linear(inputs, hidden, **options)
        self.fc2 = Linear(hidden, outputs, **options)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        """x (..., inputs) -> (..., outputs)."""
        return self.fc2(self.activation(_hidden(self.fc1(x))))


class SwiGlu(nnx.Module):
    """Gated MLP, arXiv 2002.05202 Eq. 6: W2 (silu(W1 x) * (V x))."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
        bias: bool = False,
    ):
        options: dict[str, Any] = {
            "rngs": rngs,
            "precision": precision,
            "bias": bias,
        }
        self.gate_value = Linear(
            width, 2 * hidden, init=xavier(width, hidden), **options
        )
        self.out = Linear(hidden, width, **options)

    def __call__(self, x: Array) -> Array:
        """x (..., width) -> (..., width)."""
        gate, value = map(_hidden, self.gate_value.split(x, 2))
        return self.out(jax.nn.silu(gate) * value)


def sinusoid(values: Array, features: int = 256) -> Array:
    """values (B,) -> float32 (B, features): [cos | sin], period 10,000.

    Frequencies are exp(-ln(10000) k / (features / 2)), as in ADM and DiT.
    """
    half = features // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / half)
    angles = values.astype(jnp.float32)[:, None] * frequencies.astype("f4")
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedder(nnx.Module):
    """A number on the scale 0..1000 -> (B, width), through 256 sinusoids."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, precision: Precision):
        self.mlp = Mlp(
            256,
            width,
            width,
            rngs=rngs,
            precision=precision,
            init=normal(0.02),
            activation=jax.nn.silu,
        )

    def __call__(self, timestep: Array) -> Array:
        """timestep float (B,) -> (B, width)."""
        return self.mlp(sinusoid(timestep))
