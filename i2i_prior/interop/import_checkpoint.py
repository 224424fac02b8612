"""Import of published diffusion transformers: config and parameters."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.interop import autoencoders, encoders, text
from i2i_prior.interop.files.state_dicts import StateDict, read_state_dict
from i2i_prior.interop.layouts import LAYOUTS, conversion
from i2i_prior.interop.layouts.dit import dit_rules
from i2i_prior.interop.layouts.dit_detection import (
    IGNORED,
    detect,
    implied_config,
)
from i2i_prior.models.functional import Flat
from i2i_prior.tasks.network import parameter_shapes


@dataclass
class Loaded:
    """A loaded model; the weights may imply its config."""

    config: ConfigDict
    parameters: Flat  # our name -> float32 array
    step: int | None = None  # optimizer updates it has seen, if known
    layout: str = "run"  # or "native", "torch", or a key of `LAYOUTS`
    # Sentences on assumptions, and on arrays that were left out.
    notes: list[str] = field(default_factory=list)


def import_file(
    path: str | Path,
    *,
    layout: str | None = None,
    weights: str = "ema",
    heads: int | None = None,
    base_size: int | None = None,
    position_scale: float | None = None,
) -> Loaded:
    """Reads a diffusion transformer of any known layout.

    The path is that of safetensors, a torch file, or a folder with either. The
    layout is a key of `layouts.LAYOUTS`, detected when None; `weights` is "ema"
    or "raw", where a file holds both; for the others see
    `dit_detection.implied_config`. UserError where the layout is unknown, keys
    are missing, or a weight is not finite; then nothing was loaded.
    """
    state = read_state_dict(path, weights=weights)
    layout = layout or detect_layout(state)
    config = implied_config(
        state,
        layout,
        heads=heads,
        base_size=base_size,
        position_scale=position_scale,
    )
    structs = parameter_shapes(config)
    parameters = conversion.read(
        state,
        dit_rules(config, layout, structs),
        structs,
        layout=LAYOUTS[layout],
        ignore=IGNORED,
    )
    notes = _notes(state, layout, config)
    return Loaded(config, parameters, layout=layout, notes=notes)


def detect_layout(state: StateDict) -> str:
    """Returns the layout of a state dict; UserError if it is unknown."""
    found = detect(state.shapes)
    if found is None:
        if other := describe_other_network(state):
            raise UserError(f"{state.path} holds no prior but an {other}")
        keys = ", ".join(list(state.shapes)[:3])
        raise UserError(
            f"{state.path} holds no diffusion transformer of a known layout "
            f"({', '.join(LAYOUTS.values())}); its first keys are {keys}"
        )
    return found


def describe_other_network(state: StateDict) -> str | None:
    """Returns a phrase on an encoder or autoencoder, None for other weights."""
    count = sum(int(np.prod(shape)) for shape in state.shapes.values())
    size = f"{count:,} parameters in {len(state.shapes)} arrays"
    if layout := encoders.detect(state):
        return (
            f"image encoder ({layout}), {size}; name it as encoder.weights of "
            "a config or --encoder of an import, or open it with load_encoder"
        )
    if layout := text.detect(state.shapes):
        return f"encoder of text ({layout}), {size}; open it with load_encoder"
    with contextlib.suppress(UserError):
        found = autoencoders.detect(state.shapes, state.path)
        return (
            f"autoencoder ({found.name}), {size}; name it as "
            "autoencoder.weights of a config or --autoencoder of an import"
        )
    return None


_NOTES = {
    "dit": (
        "DiT and SiT have the same names: DiT is assumed; give the format "
        "sit if this is SiT",
    ),
    "repa": (
        "SiT without a variance head has the same names: REPA's time "
        "(0 data, 1 noise) is assumed; give the format sit if it is not",
    ),
    "pixart_diffusers": (
        "the layout stores no null tokens: guidance needs null_tokens, "
        "the embedded empty prompt",
    ),
}


def _notes(state: StateDict, layout: str, config: ConfigDict) -> list[str]:
    notes = []
    if state.wrapper:
        notes.append(f"weights taken from {state.wrapper!r}")
    projectors = [k for k in state.shapes if k.startswith("projectors.")]
    if projectors:
        notes.append(
            f"{len(projectors)} arrays of REPA's projectors were dropped; "
            "only alignment training needs them"
        )
    notes += _NOTES.get(layout, ())
    sized = "pos_embed" in state.shapes or "sample_size" in (state.config or {})
    if not sized:
        notes.append(
            f"the file does not contain the image size: "
            f"{config.data.image_size} pixels are assumed, and positions "
            "counted in tokens of that; give base_size and position_scale, or "
            "put its config.json into the same folder"
        )
    elif config.model.size_conditions and not config.model.base_size:
        notes.append(
            "positions count in tokens of the grid; give base_size and "
            "position_scale for those of a multi-scale model"
        )
    return notes
