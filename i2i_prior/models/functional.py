"""Modules as pure functions over one flat dict of named arrays.

A name is the path of a parameter, as `dit/blocks/attention/qkv/kernel`.
Optimizer, EMA, shardings, checkpoints and exports all use these names.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

Flat = dict[str, Any]


@dataclass(frozen=True)
class Functional:
    """A module split once into its definition and its named variables."""

    graphdef: Any  # the static part
    # Path -> variable without a value (nnx keeps its kind)
    variables: dict[tuple, nnx.Variable]

    def merge(self, values: Flat) -> Any:
        """The module with these values; inside jit it costs only tracing.

        Values of another dtype (a bfloat16 EMA) are cast to the module's.
        """

        def fitting(path: tuple, variable: nnx.Variable) -> Any:
            value, dtype = values[join(path)], variable.get_value().dtype
            return value if value.dtype == dtype else value.astype(dtype)

        flat = [
            (path, variable.replace(fitting(path, variable)))
            for path, variable in self.variables.items()
        ]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """name -> shape and dtype, learnable or not."""
        return {
            join(path): jax.ShapeDtypeStruct(
                variable.get_value().shape, variable.get_value().dtype
            )
            for path, variable in self.variables.items()
        }


def join(path: Iterable[Any]) -> str:
    """Name of a path."""
    return "/".join(map(str, path))


def make_functional(
    build: Callable[[nnx.Rngs], nnx.Module],
) -> tuple[Functional, Callable[[jax.Array], Flat]]:
    """Splits a module without allocating it.

    `build` makes the module from its random streams. Returns the `Functional`,
    and init(key) -> flat dict of fresh float32 values (to be jitted with output
    shardings).
    """

    def make(key: jax.Array) -> nnx.Module:
        return build(nnx.Rngs(params=key))

    # The key is made inside, where it opens no device either.
    module = nnx.eval_shape(lambda: make(jax.random.key(0)))
    graphdef, state = nnx.split(module)
    functional = Functional(graphdef, dict(nnx.to_flat_state(state)))

    def init(key: jax.Array) -> Flat:
        state = nnx.split(make(key))[1]
        return {
            join(path): variable[...]
            for path, variable in nnx.to_flat_state(state)
        }

    return functional, init


def partition(values: Flat, patterns: Iterable[str]) -> tuple[Flat, Flat]:
    """Splits by name: (those matching no pattern, those matching one)."""
    pattern = re.compile("|".join(patterns) or r"(?!)")
    frozen = {k: v for k, v in values.items() if pattern.search(k)}
    return {k: v for k, v in values.items() if k not in frozen}, frozen
