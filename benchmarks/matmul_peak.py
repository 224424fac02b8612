"""What a device can do at most: a chain of large bfloat16 matmuls."""

from __future__ import annotations

from typing import Any

from lumos_pair import Run

CHAIN = 16  # matmuls in a row, so that their launch does not count


def our_matmul(size: int) -> Run:
    """A chain of bfloat16 (size, size) products, as XLA does them."""
    import jax
    import jax.numpy as jnp

    # Random, since constant data would let a GPU clock higher.
    x, w = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)
    w = w / size**0.5

    @jax.jit
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, CHAIN, lambda _, x: x @ w, x)

    def run(steps: int) -> float:
        out = x
        for _ in range(steps):
            out = chain(out, w)
        return float(out[0, 0])

    return run


def torch_matmul(size: int, device: str) -> Run:
    """The same, as PyTorch does them."""
    import torch

    options: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
    x = torch.randn((size, size), **options)
    w = torch.randn((size, size), **options) / size**0.5

    def run(steps: int) -> float:
        out = x
        for _ in range(CHAIN * steps):
            out = out @ w
        return float(out[0, 0])

    return run
