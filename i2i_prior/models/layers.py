"""Layers: linear maps, norms, MLPs, embeddings.

Arrays in, arrays out. Kernels are stored 2-D as (in, out).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from i2i_prior.models.precision import FLOAT32, Array, Precision, matmul
from i2i_prior.parallel.constraints import TOKENS, constrain, shards
from i2i_prior.parallel.mesh import BATCH, CONTEXT, TENSOR
from i2i_prior.parallel.roles import COLUMN, ROW, fused

# Names of activations that remat policies may keep.
ATTENTION, HIDDEN, DOT = "attention", "hidden", "dot"

Initializer = Callable[..., Array]  # (key, shape, dtype=float32)
normal = jax.nn.initializers.normal  # of a standard deviation
zeros = jax.nn.initializers.zeros
# GELU in its tanh approximation (arXiv 1606.08415 section 2).
gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)


def xavier(fan_in: int, fan_out: float) -> Initializer:
    """Xavier-uniform with explicit fans (fused kernels keep theirs)."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nnx.Module):
    """y = x @ kernel + bias over the last axis; `init` is that of the kernel,
    Xavier-uniform when None."""

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

        Equal to jnp.split of the output. Where `parallel.sharding` has split
        the kernel, so that each tensor shard has columns of every piece, each
        piece is a product of its own.
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


class RmsNorm(nnx.Module):
    """RMSNorm with gain, in float32."""

    def __init__(self, width: int, epsilon: float = 1e-6):
        self.gain = nnx.Param(jnp.ones((width,)))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """x (..., width) -> float32 (..., width)."""
        return rms_norm(x, self.epsilon) * self.gain[...]


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """x (B, N, D) * (1 + scale) + shift, both (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), OpenAI's GELU (arXiv 1606.08415 section 2)."""
    return x * jax.nn.sigmoid(1.702 * x)


def _hidden(x: Array) -> Array:
    """Names hidden channels for remat policies, and shards them on tensor."""
    if x.ndim == 3:
        x = constrain(x, BATCH, CONTEXT, TENSOR)
    return checkpoint_name(x, HIDDEN)


class Mlp(nnx.Module):
    """Linear -> activation -> Linear; `out_init` is of the second kernel where
    it differs. If `gated`, a second half of the first map multiplies the
    activations. `options` are those of `Linear`."""

    roles: ClassVar = {"fc1": COLUMN, "fc2": ROW}

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        init: Initializer | None = None,
        out_init: Initializer | None = None,
        activation: Callable[[Array], Array] = gelu_tanh,
        gated: bool = False,
        **options: Any,
    ):
        self.fc1 = Linear(inputs, hidden * (1 + gated), init=init, **options)
        self.fc2 = Linear(hidden, outputs, init=out_init or init, **options)
        self.activation = activation
        self.gated = gated

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        """x (..., inputs) -> (..., outputs)."""
        h = _hidden(self.fc1(x))
        if not self.gated:
            return self.fc2(self.activation(h))
        h, factors = jnp.split(h, 2, axis=-1)
        return self.fc2(self.activation(h) * factors)


class PreNormBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with `scale_width`, which
    is D, each branch has a learned gain."""

    def __init__(
        self,
        norm: Callable[[], nnx.Module],
        attention: nnx.Module,
        mlp: nnx.Module,
        scale_width: int = 0,
    ):
        self.norm1, self.norm2 = norm(), norm()
        self.attention, self.mlp = attention, mlp
        ones = jnp.ones((scale_width,))
        self.scale1 = nnx.Param(ones) if scale_width else None
        self.scale2 = nnx.Param(ones) if scale_width else None

    def __call__(self, h: Array, *context: Any) -> Array:
        """h (B, N, D) -> (B, N, D); `context` is for attention."""
        branch = self.attention(self.norm1(h).astype(h.dtype), *context)
        h = h + self._scaled(branch, self.scale1)
        branch = self.mlp(self.norm2(h).astype(h.dtype))
        return h + self._scaled(branch, self.scale2)

    def _scaled(self, branch: Array, scale: nnx.Param | None) -> Array:
        if scale is None:
            return branch
        return (branch * scale[...]).astype(branch.dtype)


class SwiGlu(nnx.Module):
    """Gated MLP, arXiv 2002.05202 Eq. 6: W2 (silu(W1 x) * (V x))."""

    roles: ClassVar = {"gate_value": fused(2), "out": ROW}

    def __init__(
        self, width: int, hidden: int, *, bias: bool = False, **options: Any
    ):
        options["bias"], init = bias, xavier(width, hidden)
        self.gate_value = Linear(width, 2 * hidden, init=init, **options)
        self.out = Linear(hidden, width, **options)

    @jax.named_scope("mlp")
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


def embedding_mlp(
    inputs: int,
    width: int,
    *,
    ratio: float = 1.0,
    activation: Callable[[Array], Array] = jax.nn.silu,
    **options: Any,
) -> Mlp:
    """MLP (..., inputs) -> (..., width) with kernels of standard deviation
    0.02; `ratio` is muP's, base width / width (`models.mup`)."""
    out_init = normal(0.02 * math.sqrt(ratio))
    options |= {"out_init": out_init, "activation": activation}
    return Mlp(inputs, width, width, init=normal(0.02), **options)


class TimestepEmbedder(nnx.Module):
    """Embedding of a number on the scale 0..1000, through 256 sinusoids.

    `options` are those of `embedding_mlp`.
    """

    def __init__(self, width: int, **options: Any):
        self.mlp = embedding_mlp(256, width, **options)

    def __call__(self, timestep: Array) -> Array:
        """timestep float (B,) -> (B, width)."""
        return self.mlp(sinusoid(timestep))
