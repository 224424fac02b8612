"""Detection of a diffusion transformer's layout and config from its keys.

Key names and shapes imply nearly the whole config; the heads and the scale of
the positions are arguments.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.config import default_config
from i2i_prior.errors import UserError, check_known
from i2i_prior.interop.layouts import LAYOUTS, mapping
from i2i_prior.interop.layouts.dit import names_of, position_table
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.presets import SIZES

# layout -> its model.block
BLOCKS = {
    "lumos": "lumos",
    "dit": "dit",
    "sit": "dit",
    "repa": "dit",
    "pixart": "pixart",
    "pixart_diffusers": "pixart",
}
# Keys that no model of ours has a place for.
IGNORED = (r"^pos_embed$", r"^projectors\.", r"^pos_embed\.pos_embed$")

_HEAD_WIDTH = 72  # of XL, the only published size of Lumos and PixArt-alpha


def detect(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Returns the layout of a state dict's keys, None if it is unknown.

    DiT and SiT have the same names, so DiT is assumed; so have SiT without a
    variance head and REPA without projectors, so REPA is assumed.
    """
    if "adaln_single.linear.weight" in shapes:
        return "pixart_diffusers"
    if "x_embedder.proj.weight" not in shapes:
        return None
    if "t_block.1.weight" in shapes:
        return "pixart"
    if "blocks.0.cross_attn.kv_linear.weight" in shapes:
        return "lumos"
    if "y_embedder.embedding_table.weight" in shapes:
        projectors = any(key.startswith("projectors.") for key in shapes)
        return "repa" if projectors or not _has_variance(shapes) else "dit"
    return None


def _has_variance(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    patches = shapes["x_embedder.proj.weight"]
    rows = shapes.get("final_layer.linear.weight", ())[:1]
    return len(patches) == 4 and rows == (2 * patches[1] * patches[2] ** 2,)


def implied_config(
    state: Any,
    layout: str,
    *,
    heads: int | None = None,
    base_size: int | None = None,
    position_scale: float | None = None,
) -> ConfigDict:
    """Returns the run config of a model of these shapes.

    The state is a `files.state_dicts.StateDict`, the layout a key of `LAYOUTS`.
    Without `heads` they are those of the published model of this width, else
    width / 72. `base_size` and `position_scale` are those of the position
    table; if None they are found from the stored table, or are 1 x the grid.
    UserError where keys are missing, or the number of heads is unknown.
    """
    check_known("layout", layout, LAYOUTS)
    for name, value in (
        ("heads", heads),
        ("base_size", base_size),
        ("position_scale", position_scale),
    ):
        number = isinstance(value, int | float) and value > 0
        if value is not None and not number:
            raise UserError(f"{name} is {value!r}; give a number above 0")
    with mapping.implied_shapes(state.path, LAYOUTS[layout]):
        return _implied(state, layout, heads, base_size, position_scale)


def _implied(
    state: Any,
    layout: str,
    heads: int | None,
    base_size: int | None,
    position_scale: float | None,
) -> ConfigDict:
    shapes, names = state.shapes, names_of(layout)

    def key(part: str) -> str:
        return f"{names.get(f'dit/{part}')}.weight".format(i=0)

    width, channels, patch, _ = shapes[key("patch_embed")]
    out = shapes[key("final/out")][0] / (patch**2 * channels)
    layers, _, _ = str(names["dit/blocks/mlp/fc1"]).partition("{i}")
    if out not in (1, 2):
        raise UserError(
            f"{state.path}: the output has {out:g} times the {channels} input "
            "channels; 1 (prediction) or 2 (with variance) are known"
        )
    config = default_config()
    config.name = layout
    config.seed = 0
    model = config.model
    model.block = BLOCKS[layout]
    model.depth = mapping.depth(shapes, layers)
    model.width, model.patch = width, patch
    model.mlp_ratio = float(shapes[key("blocks/mlp/fc1")][0] / width)
    model.precision = "float32"
    model.heads = heads or _heads(width, state)
    model.qk_norm = key("blocks/attention/q_norm") in shapes
    model.size_conditions = key("size_embed/size/fc1") in shapes
    _set_latents(config, state, channels)
    config.diffusion.learn_sigma = out == 2
    config.diffusion.time = "uniform"
    config.encoder.kind = "none"
    if layout in ("dit", "sit", "repa"):
        _set_classes(config, shapes, layout)
    else:
        _set_tokens(config, shapes, layout)
    _set_positions(config, state, base_size, position_scale)
    return config


def _heads(width: int, state: Any) -> int:
    stated = (state.config or {}).get("num_attention_heads")
    if stated:
        return int(stated)
    for _, known, heads in SIZES.values():
        if width == known:
            return heads
    if width % _HEAD_WIDTH == 0:
        return width // _HEAD_WIDTH
    raise UserError(
        f"{state.path} has a width of {width}, which no published model has; "
        "give heads, the number of attention heads"
    )


def _set_latents(config: ConfigDict, state: Any, channels: int) -> None:
    kinds = {3: "pixels", 4: "sd", 16: "flux", 32: "flux2"}
    config.autoencoder.kind = kinds.get(channels, "sd")
    if channels not in kinds:
        shape = AutoencoderConfig(channels=channels).to_json()
        config.autoencoder.shape = shape
    side = None
    if config.name == "pixart_diffusers":
        side = (state.config or {}).get("sample_size")
    elif "pos_embed" in state.shapes:
        side = round(state.shapes["pos_embed"][1] ** 0.5) * config.model.patch
    factor = 1 if config.autoencoder.kind == "pixels" else 8
    config.data.image_size = int(side or 32) * factor


def _set_classes(config: ConfigDict, shapes: Any, layout: str) -> None:
    table = shapes["y_embedder.embedding_table.weight"]
    config.model.classes = table[0] - 1
    config.conditioner.tokens_from = "none"
    config.conditioner.expand = 1
    sample, diffusion = config.sample, config.diffusion
    sample.guidance = 4.0
    if layout == "dit":
        diffusion.path, diffusion.prediction = "ddpm_linear", "eps"
    else:
        diffusion.path, diffusion.prediction = "flow", "velocity"
        diffusion.time_convention = "sit" if layout == "sit" else "repa"
        sample.solver, sample.steps = "heun", 50


def _set_tokens(config: ConfigDict, shapes: Any, layout: str) -> None:
    conditioner = config.conditioner
    conditioner.expand = 1
    conditioner.null = "random"
    conditioner.positions = False
    config.diffusion.path = "ddpm_linear"
    config.diffusion.prediction = "eps"
    if layout == "pixart_diffusers":
        width = shapes["caption_projection.linear_1.weight"][1]
        conditioner.null = "given"
        length = 120
    else:
        length, width = shapes["y_embedder.y_embedding"]
        config.sample.null_mask = "caption"
    if length == 1:
        conditioner.tokens_from = "cls"
        config.encoder.width = width
        config.encoder.heads = max(1, width // 64)
        config.encoder.pixels = "family"
        config.model.one_token = True
        return
    conditioner.tokens_from = "tokens"
    conditioner.length, conditioner.embedding_width = length, width
    conditioner.normalize = False
    # The official text-to-image samplers take a second-order last step from
    # 10 steps on.
    config.sample.lower_order_final = False


def _set_positions(
    config: ConfigDict,
    state: Any,
    base_size: int | None,
    position_scale: float | None,
) -> None:
    model = config.model
    stated = state.config or {}
    if stated.get("interpolation_scale"):
        model.position_scale = float(stated["interpolation_scale"])
    elif "sample_size" in stated and config.name == "pixart_diffusers":
        model.position_scale = float(max(stated["sample_size"] // 64, 1))
    if base_size is not None:
        model.base_size = base_size
    if position_scale is not None:
        model.position_scale = float(position_scale)
    if "pos_embed" not in state.shapes:
        return
    stored = np.asarray(state["pos_embed"], np.float32)
    given = position_scale is not None or base_size is not None
    scales = (model.position_scale,) if given else (1.0, 2.0, 0.5, 4.0)
    before = model.position_scale
    for scale in scales:
        model.position_scale = scale
        table = position_table(config)
        if table.shape == stored.shape and np.allclose(
            table, stored, rtol=0, atol=1e-2
        ):
            return
    if model.size_conditions:
        # They compute their table anew for every grid, whatever is stored.
        model.position_scale = before
        return
    raise UserError(
        f"{state.path}: pos_embed {stored.shape} is not the fixed sin-cos "
        "table of its grid; give the base_size and position_scale (lewei_"
        "scale) that it was made with"
    )
