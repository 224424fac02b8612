"""Export of diffusion transformers into published layouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.files.state_dicts import write_state_dict
from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.dit import dit_rules, position_table
from i2i_prior.interop.layouts.dit_detection import BLOCKS, LAYOUTS


def check_format(config: ConfigDict, layout: str) -> None:
    """Checks that a layout can express the model.

    Raises:
      UserError: it cannot; names the reason and the alternative.
    """
    model, conditioner = config.model, config.conditioner
    classes = layout in ("dit", "sit", "repa")
    condition = "class labels" if classes else "condition tokens"
    reasons: list[tuple[bool, str]] = [
        (
            model.block != BLOCKS[layout],
            f"its blocks are {model.block}, not {BLOCKS[layout]}",
        ),
        (
            classes
            != (conditioner.tokens_from == "none" and model.classes > 0),
            f"the layout takes {condition}, and this model does not",
        ),
        (
            not classes and conditioner.tokens_from == "none",
            "the layout takes condition tokens, and this model does not",
        ),
        (
            conditioner.concat_from != "none",
            "the layout stacks no source image on the noisy latent",
        ),
        (
            conditioner.expand > 1 and not classes,
            f"the layout has one token for each embedding, this model has "
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
      layout: a key of `dit_detection.LAYOUTS`.
      dtype: float32, float16 or bfloat16.
      metadata: provenance, for the header of a safetensors file.

    Returns:
      bytes written.

    Raises:
      UserError: the layout cannot express the model.
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
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields (key, tensor) of every entry of the layout's state dict."""
    if layout != "pixart_diffusers":
        table = position_table(config)
        yield "pos_embed", LazyTensor(table.shape, lambda: table)
    rules = dit_rules(config, layout, parameters)
    yield from mapping.save(parameters, rules)


def caveats(config: ConfigDict, layout: str) -> list[str]:
    """Returns sentences on assumptions of the layout's official sampler."""
    flow = layout in ("sit", "repa")
    path = "flow" if flow else "ddpm_linear"
    prediction = "velocity" if flow else "eps"
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
