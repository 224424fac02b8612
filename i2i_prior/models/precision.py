"""Matrix product of all layers, and the dtypes it is computed in.

A matmul runs on (rows, features): XLA's CPU and TPU back ends both prefer
that to batched products (measured: 1.3x on CPU, half the compile time on TPU).
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from i2i_prior.parallel.constraints import platform

Array = jax.Array


@dataclass(frozen=True)
class Precision:
    """Dtypes of activations and of the operands of products.

    Parameters are always float32; norms, softmax and sums always run in
    float32.
    """

    activations: jnp.dtype  # dtype of the residual stream and of layer outputs
    # Dtype of both matmul operands; products are accumulated in float32
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
