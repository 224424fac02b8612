"""Published image encoders: loaded from their authors' names, and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop import mapping
from i2i_prior.interop.encoders_describe import Described, describe, detect
from i2i_prior.interop.encoders_layouts import LAYOUTS, fits, rules
from i2i_prior.models.families import ViTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.vit import ViT

if TYPE_CHECKING:
    from i2i_prior.interop.files import StateDict

__all__ = ["LAYOUTS", "Described", "describe", "detect", "export", "load"]


def load(
    state: StateDict,
    *,
    layout: str | None = None,
    heads: int | None = None,
    family: str | None = None,
) -> tuple[ViTConfig, dict[str, np.ndarray], list[str]]:
    """Reads an encoder; the arguments are those of `describe`.

    Returns:
      its shape, its parameters by the names of `ViT` (float32), and notes.

    Raises:
      UserError: as `describe`, and where a key is missing, unexpected or
        misshapen, or a weight is not finite.
    """
    found = describe(state, layout=layout, heads=heads, family=family)
    spec = LAYOUTS[found.layout]
    table = rules(spec, found.config, found.prefix)
    functional, _ = make_functional(lambda rngs: ViT(found.config, rngs=rngs))
    shapes = {name: array.shape for name, array in functional.shapes().items()}
    mapping.check(
        state.shapes,
        table,
        shapes,
        path=state.path,
        layout=found.layout,
        ignore=spec.ignore,
    )
    parameters = mapping.load(state, table, shapes, path=state.path)
    return found.config, parameters, found.notes


def export(
    parameters: Mapping[str, np.ndarray], config: ViTConfig, layout: str
) -> Iterator[tuple[str, mapping.Tensor]]:
    """Parameters under another library's names, one at a time.

    What `load` leaves in a file is not written: heads, poolers, mask tokens,
    MAE's decoder, the text half of CLIP and SigLIP, position ids.

    Args:
      parameters: by the names of `ViT`.
      config: their shape.
      layout: a key of `LAYOUTS`.

    Raises:
      UserError: where the layout is unknown or has no names for a part.
    """
    if layout not in LAYOUTS:
        raise UserError(
            f"the encoder layout {layout!r} is unknown; choose one of "
            f"{', '.join(LAYOUTS)}"
        )
    spec = LAYOUTS[layout]
    if not fits(spec, config):
        raise UserError(
            f"an encoder of the family {config.family} has parts that the "
            f"layout {layout} has no names for, or lacks some; choose another"
        )
    return mapping.save(parameters, rules(spec, config, spec.prefixes[0]))
