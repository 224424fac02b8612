"""This project's weights in a layout that PyTorch code reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import write_state_dict
from i2i_prior.interop.import_checkpoint import rules_of
from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.detect import LAYOUTS
from i2i_prior.interop.layouts.dit import position_tensor

# format -> model.block it can express
_BLOCKS = {
    "lumos": "lumos",
    "dit": "dit",
    "sit": "dit",
    "repa": "dit",
    "pixart": "pixart",
    "pixart_diffusers": "pixart",
}
assert _BLOCKS.keys() == LAYOUTS.keys()


def check_format(config: ConfigDict, layout: str) -> None:
    """Refuses a layout that cannot express the model.

    Raises:
      UserError: that names the reason and the alternative.
    """
    model, conditioner = config.model, config.conditioner
    classes = layout in ("dit", "sit", "repa")
    doors = "class labels" if classes else "condition tokens"
    reasons: list[tuple[bool, str]] = [
        (
            model.block != _BLOCKS[layout],
            f"its blocks are {model.block}, not {_BLOCKS[layout]}",
        ),
        (
            classes
            != (conditioner.tokens_from == "none" and model.classes > 0),
            f"the layout takes {doors}, and this model does not",
        ),
        (
            conditioner.expand > 1 and not classes,
            f"the layout makes one token of each embedding, this model "
            f"{conditioner.expand}",
        ),
        (
            bool(conditioner.positions)
            and conditioner.tokens_from in ("patches", "pyramid"),
            "its condition tokens carry positions",
        ),
        (
            conditioner.scale != 1 and not classes,
            f"its embeddings are scaled by {conditioner.scale or 'sqrt(C)'}",
        ),
        (
            layout in ("lumos", "pixart", "pixart_diffusers", "dit")
            and not config.diffusion.learn_sigma,
            "the layout has a learned variance, this model has none",
        ),
        (
            layout == "pixart_diffusers" and model.qk_norm,
            "the layout has no QK-norm",
        ),
        (
            layout in ("pixart", "lumos") and conditioner.null == "given",
            "the layout stores null tokens, and this model has none",
        ),
    ]
    for applies, reason in reasons:
        if applies:
            raise UserError(
                f"this model cannot be written as {LAYOUTS[layout]}: "
                f"{reason}; use --format torch, which holds every model"
            )


def export_file(
    path: str | Path,
    parameters: dict[str, Any],
    config: ConfigDict,
    layout: str,
    *,
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
) -> int:
    """Writes a diffusion transformer under a published layout's names.

    Encoder and autoencoder are not part of these layouts and stay out.

    Args:
      path: FILE.safetensors, or FILE.pth / FILE.pt (needs torch).
      parameters: our names -> arrays.
      config: of the run.
      layout: a key of `recognise.LAYOUTS`.
      dtype: float32, float16 or bfloat16.
      metadata: provenance, into the header of a safetensors file.

    Returns:
      bytes written.

    Raises:
      UserError: where the layout cannot express the model.
    """
    check_format(config, layout)
    return write_state_dict(
        path,
        tensors(parameters, config, layout),
        dtype=dtype,
        metadata=metadata,
    )


def tensors(
    parameters: dict[str, Any], config: ConfigDict, layout: str
) -> Iterator[tuple[str, mapping.Tensor]]:
    """(key, tensor) of every entry of the layout's state dict."""
    if layout != "pixart_diffusers":
        yield position_tensor(config)
    yield from mapping.save(parameters, rules_of(config, layout))


def caveats(config: ConfigDict, layout: str) -> list[str]:
    """What the layout's own sampler will not know of this model."""
    flow = ("flow", "velocity")
    path, prediction = (
        flow
        if layout in ("sit", "repa")
        else (
            "ddpm_linear",
            "eps",
        )
    )
    convention = {"sit": "sit", "repa": "repa"}.get(layout, "native")
    section = config.diffusion
    return [
        f"the official sampler of {LAYOUTS[layout]} assumes {name}={wanted}, "
        f"this model was trained with {section[name]}"
        for name, wanted in (
            ("path", path),
            ("prediction", prediction),
            ("time_convention", convention),
        )
        if section[name] != wanted
    ]
