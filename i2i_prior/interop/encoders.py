"""Import and export of published image encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from i2i_prior.errors import UserError, check_known
from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.layouts import conversion, mapping
from i2i_prior.interop.layouts.vit import LAYOUTS, detect, fits, vit_rules
from i2i_prior.interop.layouts.vit_detection import describe
from i2i_prior.models.encoder_families import ViTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.vit import ViT

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict

__all__ = ["describe", "detect", "export", "load"]


def load(
    state: StateDict,
    *,
    layout: str | None = None,
    heads: int | None = None,
    family: str | None = None,
) -> tuple[ViTConfig, dict[str, np.ndarray], list[str]]:
    """Reads an encoder; the arguments are those of `describe`.

    Returns its config, its parameters by the names of `ViT` (float32), and
    notes. UserError as `describe`; or where a key is missing, unexpected or
    misshapen, or a weight is not finite.
    """
    with mapping.implied_shapes(state.path, "an image encoder"):
        found = describe(state, layout=layout, heads=heads, family=family)
    spec = LAYOUTS[found.layout]
    functional, _ = make_functional(lambda rngs: ViT(found.config, rngs=rngs))
    structs = functional.shapes()
    parameters = conversion.read(
        state,
        vit_rules(spec, found.config, found.prefix, structs),
        structs,
        layout=found.layout,
        ignore=spec.ignore,
    )
    return found.config, parameters, found.notes


def export(
    parameters: Mapping[str, np.ndarray], config: ViTConfig, layout: str
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields parameters under another library's names, one at a time.

    What `load` ignores is not written: heads, poolers, mask tokens, MAE's
    decoder, the text half of CLIP and SigLIP, position ids. UserError where the
    layout is not in `LAYOUTS` or has no names for a part.
    """
    check_known("the encoder layout", layout, LAYOUTS)
    spec = LAYOUTS[layout]
    if not fits(spec, config):
        raise UserError(
            f"an encoder of the family {config.family} does not have the "
            f"parts of the layout {layout}; choose another"
        )
    rules = vit_rules(spec, config, spec.prefixes[0], parameters)
    return conversion.save(parameters, rules)
