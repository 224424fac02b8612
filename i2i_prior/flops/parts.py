"""What a piece of a network is: its parameters and its multiply-adds.

A network is described once, piece by piece under the names of its parameter
tree, and both counts follow from the description. Norms, softmax, activations
and sums of embeddings are no products and cost nothing here, as in the
published GMACs of DiT and Lumos.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a network, on one example.

    Attributes:
      parameters: numbers in its arrays.
      macs: multiply-adds of its forward pass, scores of attention included.
      scores: of `macs`, the products of attention that hold no parameters:
        scores and weighted sums.
      frozen: of `parameters`, those that are never trained.
    """

    parameters: int = 0
    macs: int = 0
    scores: int = 0
    frozen: int = 0

    def __add__(self, other: Part) -> Part:
        """Both together."""
        return Part(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.scores + other.scores,
            self.frozen + other.frozen,
        )

    def __mul__(self, count: int) -> Part:
        """So many of it, with parameters of their own."""
        return Part(
            self.parameters * count,
            self.macs * count,
            self.scores * count,
            self.frozen * count,
        )


Parts = dict[str, Part]  # by the name in the parameter tree


def total(parts: Iterable[Part]) -> Part:
    """All of them together."""
    result = Part()
    for part in parts:
        result = result + part
    return result


def untrained(part: Part) -> Part:
    """The same with all its parameters frozen."""
    return replace(part, frozen=part.parameters)


def unused(part: Part) -> Part:
    """Its parameters, of which no product is computed."""
    return replace(part, macs=0, scores=0)


def linear(inputs: int, outputs: int, rows: int, bias: bool = True) -> Part:
    """`layers.Linear` on so many rows an example."""
    weights = inputs * outputs
    return Part(weights + outputs * bias, rows * weights)


def mlp(inputs: int, hidden: int, outputs: int, rows: int) -> Part:
    """`layers.Mlp`."""
    weights = inputs * hidden + hidden * outputs
    return Part(weights + hidden + outputs, rows * weights)


def gated(width: int, hidden: int, rows: int, bias: bool = False) -> Part:
    """`layers.SwiGlu`."""
    return linear(width, 2 * hidden, rows, bias) + linear(
        hidden, width, rows, bias
    )


def attention(queries: int, keys: int, width: int) -> Part:
    """Scores and weighted sums, all heads: they share the `width`."""
    macs = 2 * queries * keys * width
    return Part(0, macs, macs)


def conv(
    inputs: int, outputs: int, side: int, pixels: int, bias: bool = True
) -> Part:
    """A convolution by a kernel of side x side to so many output pixels."""
    weights = side * side * inputs * outputs
    return Part(weights + outputs * bias, pixels * weights)


def norm(width: int) -> Part:
    """Gain and bias."""
    return Part(2 * width)
