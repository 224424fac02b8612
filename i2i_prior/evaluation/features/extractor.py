"""What every feature network of the evaluation looks like from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Extractor:
    """Images in, one or several sets of features out.

    Attributes:
        name: what results record, as "inception", "dinov2", "colour_texture".
        label: what the Frechet distance over its first tap is called: "FID"
            for the published Inception weights and for nothing else.
        taps: the features' names and their numbers d; the first is the one
            that a Frechet distance is taken over.
        identity: JSON values that two sides of a comparison must have alike:
            SHA-256 of the weights, the preset's record, input size, code.
        prepare: uint8 (n, H, W, 3), all of one size -> (n, ...) that `apply`
            takes; runs on the host, in any thread.
        apply: (parameters, prepared) -> {tap: float32 (n, d)}. Traced by
            `jax.jit`, except where `traced` is False: then it is NumPy.
        parameters: a tree of arrays, or None.
        traced: see `apply`.
    """

    name: str
    label: str
    taps: Mapping[str, int]
    identity: Mapping[str, Any]
    prepare: Callable[[np.ndarray], np.ndarray]
    apply: Callable[[Any, Any], Mapping[str, Any]]
    parameters: Any = field(default=None, repr=False)
    traced: bool = True

    @property
    def first(self) -> str:
        """The tap of the Frechet distance."""
        return next(iter(self.taps))
