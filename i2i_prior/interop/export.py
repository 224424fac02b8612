"""Export of diffusion transformers into published layouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.files.state_dicts import write_state_dict
from i2i_prior.interop.layouts import LAYOUTS, conversion
from i2i_prior.interop.layouts.dit import dit_rules, position_table
from i2i_prior.interop.layouts.dit_detection import BLOCKS


def check_format(config: ConfigDict, layout: str) -> None:
    """Raises UserError, with the reason, if a layout cannot hold the model."""
    model, conditioner = config.model, config.conditioner
    classes = layout in ("dit", "sit", "repa")
    tokens = conditioner.tokens_from != "none"
    takes = not tokens and model.classes > 0 if classes else tokens
    condition = "class labels" if classes else "condition tokens"
    reasons = {
        f"its blocks are {model.block}, not {BLOCKS[layout]}": model.block
        != BLOCKS[layout],
        f"the layout takes {condition}, and this model does not": not takes,
        "the layout stacks no source image on the noisy latent": (
            conditioner.concat_from != "none"
        ),
        "the layout has one token for each embedding, this model has "
        f"{conditioner.expand}": conditioner.expand > 1 and not classes,
        "its condition tokens carry positions": conditioner.positions
        and conditioner.tokens_from in ("patches", "pyramid"),
        f"its embeddings are scaled by {conditioner.scale or 'sqrt(C)'}": (
            conditioner.scale != 1 and not classes
        ),
        "the layout has a learned variance, this model has none": (
            layout in ("lumos", "pixart", "pixart_diffusers", "dit")
            and not config.diffusion.learn_sigma
        ),
        "the layout has no QK-norm": (
            layout == "pixart_diffusers" and model.qk_norm
        ),
        "the layout stores null tokens, and this model has none": (
            layout in ("pixart", "lumos") and conditioner.null == "given"
        ),
    }
    for reason, applies in reasons.items():
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

    The path is FILE.safetensors, or FILE.pth / FILE.pt (needs torch), `layout`
    a key of `layouts.LAYOUTS`, `dtype` float32, float16 or bfloat16. The
    parameters are arrays by our names; `metadata` is provenance, for the header
    of a safetensors file. Returns the bytes written. UserError where the layout
    cannot express the model.
    """
    check_format(config, layout)
    state = tensors(parameters, config, layout)
    return write_state_dict(path, state, dtype=dtype, metadata=metadata)


def tensors(
    parameters: dict[str, Any], config: ConfigDict, layout: str
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields (key, tensor) of every entry of the layout's state dict."""
    if layout != "pixart_diffusers":
        table = position_table(config)
        yield "pos_embed", LazyTensor(table.shape, lambda: table)
    rules = dit_rules(config, layout, parameters)
    yield from conversion.save(parameters, rules)


def caveats(config: ConfigDict, layout: str) -> list[str]:
    """Returns sentences on assumptions of the layout's official sampler."""
    flow = layout in ("sit", "repa")
    assumed = {
        "path": "flow" if flow else "ddpm_linear",
        "prediction": "velocity" if flow else "eps",
        "time_convention": layout if flow else "native",
    }
    return [
        f"the official sampler of {LAYOUTS[layout]} assumes {name}={wanted}, "
        f"this model was trained with {config.diffusion[name]}"
        for name, wanted in assumed.items()
        if config.diffusion[name] != wanted
    ]
