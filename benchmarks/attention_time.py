"""Forward and backward times of attention forms on this machine.

`python benchmarks/attention_time.py [--forms batched,xla]` prints, for each
shape (batch, tokens, heads, width) and precision, milliseconds of one forward
and backward pass: the best of several, the forms taken in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from i2i_prior.models.attention import attend
from i2i_prior.models.attention_kernels import CHOICES
from i2i_prior.models.precision import PRECISIONS

# The small Lumos model of 64 tokens, the same at 1024, and XL/2's heads.
SHAPES = ((32, 64, 4, 64), (2, 1024, 4, 64), (4, 256, 16, 72))


def make_step(form: str, precision: str) -> Callable:
    """(q, k, v, weights) -> gradients of sum(attend(q, k, v) * weights)."""

    def loss(q, k, v, weights):
        out = attend(q, k, v, precision=PRECISIONS[precision], form=form)
        return jnp.sum(out * weights)

    return jax.jit(jax.grad(loss, (0, 1, 2)))


def best_times(
    forms: list[str], shape: tuple[int, ...], precision: str, repeats: int
) -> dict[str, float]:
    """form -> milliseconds of its best run."""
    keys = jax.random.split(jax.random.key(0), 4)
    dtype = PRECISIONS[precision].activations
    arrays = [jax.random.normal(key, shape, dtype) for key in keys]
    steps = {form: make_step(form, precision) for form in forms}
    for step in steps.values():
        jax.block_until_ready(step(*arrays))
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(repeats):
        for form, step in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(*arrays))
            spent = 1e3 * (time.perf_counter() - began)
            best[form] = min(best[form], spent)
    return best


def main() -> None:
    """Prints one line a shape and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--forms", default="auto,xla", help=str(CHOICES))
    parser.add_argument("--precisions", default="float32,bfloat16_matmul")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}")
    for shape in SHAPES:
        for precision in options.precisions.split(","):
            times = best_times(
                options.forms.split(","), shape, precision, options.repeats
            )
            line = ", ".join(f"{f} {ms:.2f} ms" for f, ms in times.items())
            print(f"{shape} {precision}: {line}", flush=True)


if __name__ == "__main__":
    main()
