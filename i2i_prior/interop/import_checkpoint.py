"""A published checkpoint -> config and parameters of this project."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import StateDict, read_state_dict
from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.detect import (
    IGNORED,
    LAYOUTS,
    detect,
    implied_config,
)
from i2i_prior.interop.layouts.dit import diffusers_rules, official_rules
from i2i_prior.tasks.network import parameter_shapes


@dataclass
class Imported:
    """A model that came from elsewhere.

    Attributes:
      layout: a key of `recognise.LAYOUTS`.
      config: the run config that its shapes imply.
      parameters: our name -> float32 array.
      notes: sentences on what was assumed or left out.
    """

    layout: str
    config: ConfigDict
    parameters: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)


def rules_of(config: ConfigDict, layout: str) -> list[mapping.Rule]:
    """The rules that tie a config's parameters to a layout's keys."""
    if layout == "pixart_diffusers":
        return diffusers_rules(config)
    return official_rules(config)


def import_file(
    path: str | Path,
    *,
    layout: str | None = None,
    weights: str = "ema",
    heads: int | None = None,
    base_size: int | None = None,
    position_scale: float | None = None,
) -> Imported:
    """Reads a diffusion transformer of any known layout.

    Args:
      path: safetensors, a torch file, or a folder with either.
      layout: a key of `recognise.LAYOUTS`; recognised when None.
      weights: "ema" or "raw", where a file holds both.
      heads, base_size, position_scale: what shapes do not tell, see
        `recognise.implied_config`.

    Raises:
      UserError: where it is none of them, incomplete, or not finite; then
        nothing was loaded.
    """
    state = read_state_dict(path, weights=weights)
    layout = layout or recognised(state)
    config = implied_config(
        state,
        layout,
        heads=heads,
        base_size=base_size,
        position_scale=position_scale,
    )
    rules = rules_of(config, layout)
    shapes = {name: s.shape for name, s in parameter_shapes(config).items()}
    mapping.check(
        state.shapes,
        rules,
        shapes,
        path=path,
        layout=LAYOUTS[layout],
        ignore=IGNORED,
    )
    parameters = mapping.load(state, rules, shapes, path=path)
    return Imported(layout, config, parameters, _notes(state, layout, config))


def recognised(state: StateDict) -> str:
    """The layout of a state dict.

    Raises:
      UserError: where it is none of `recognise.LAYOUTS`.
    """
    found = detect(state.shapes)
    if found is None:
        if other := other_network(state):
            raise UserError(f"{state.path} holds no prior but an {other}")
        keys = ", ".join(list(state.shapes)[:3])
        raise UserError(
            f"{state.path} holds no diffusion transformer of a known layout "
            f"({', '.join(LAYOUTS.values())}); its first keys are {keys}"
        )
    return found


def other_network(state: StateDict) -> str | None:
    """A phrase on weights that are an encoder or an autoencoder."""
    from i2i_prior.interop import autoencoders, encoders, text

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


def _notes(state: StateDict, layout: str, config: ConfigDict) -> list[str]:
    notes = []
    if state.container:
        notes.append(f"weights taken from {state.container!r}")
    projectors = [k for k in state.shapes if k.startswith("projectors.")]
    if projectors:
        notes.append(
            f"{len(projectors)} arrays of REPA's projectors were dropped; "
            "only alignment training needs them"
        )
    if layout == "dit":
        notes.append(
            "DiT and SiT share their names: DiT is assumed, name the format "
            "sit if this is SiT"
        )
    if layout == "repa":
        notes.append(
            "SiT without a variance head has the same names: REPA's time "
            "(0 data, 1 noise) is assumed, name the format sit if it is not"
        )
    if layout == "pixart_diffusers":
        notes.append(
            "the layout stores no null tokens: guidance wants null_tokens, "
            "the embedded empty prompt"
        )
    known = "pos_embed" in state.shapes or "sample_size" in (state.config or {})
    if not known:
        notes.append(
            f"the file does not tell the image size: "
            f"{config.data.image_size} pixels are assumed, and positions "
            "counted in tokens of that; give base_size and position_scale, or "
            "put its config.json beside it"
        )
    elif config.model.size_conditions and not config.model.base_size:
        notes.append(
            "positions count in tokens of the grid; give base_size and "
            "position_scale for those of a multi-scale model"
        )
    return notes
