"""Interface of the feature networks, and the identity of their features."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.presets import of_statistics

_SHOWN = 12  # characters of a value in an error


@dataclass(frozen=True)
class Extractor:
    """Function of images to one or several sets of features, its taps."""

    name: str  # in results, as "inception", "dinov2", "colour_texture"
    # Of the Frechet distance over the first tap: "FID" for the published
    # Inception weights and for nothing else.
    label: str
    taps: Mapping[str, int]  # name -> dimension d
    # JSON values that must be equal on both sides of a comparison: SHA-256 of
    # the weights, the preset's record, input size, code.
    identity: Mapping[str, Any]
    # uint8 (n, H, W, 3), all of one size -> (n, ...) that `apply` takes; runs
    # on the host, in any thread.
    prepare: Callable[[np.ndarray], np.ndarray]
    # (parameters, prepared) -> {tap: float32 (n, d)}
    apply: Callable[[Any, Any], Mapping[str, Any]]
    parameters: Any = field(default=None, repr=False)  # tree of arrays
    traced: bool = True  # `apply` by `jax.jit`; NumPy otherwise

    @property
    def first(self) -> str:
        """Tap of the Frechet distance."""
        return next(iter(self.taps))

    def check_identity(self, place: str, stored: Mapping[str, Any]) -> None:
        """Refuses features of `place` that were computed in another way.

        UserError names the first difference from their stored identity that
        counts, see `presets.of_statistics`.
        """
        ours = json.loads(json.dumps(dict(self.identity)))
        for key in sorted({*stored, *ours}, key=lambda key: key != "preset"):
            theirs, own = stored.get(key), ours.get(key)
            if _relevant(theirs) != _relevant(own):
                raise UserError(
                    f"{place} was made with {key} {_short(theirs)}, here it "
                    f"is {_short(own)}: the two do not compare; make it again "
                    "from the images, or use what it was made with."
                )


def _relevant(value: Any) -> Any:
    return of_statistics(value) if isinstance(value, Mapping) else value


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", dict(value)))
    return "not said" if value is None else str(value)[:_SHOWN]
