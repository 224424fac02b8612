"""Layouts of published diffusion transformers.

There are two: the official one (of DiT, SiT, REPA, PixArt-alpha and Lumos)
and that of diffusers' PixArtTransformer2DModel. The model's parameters
determine the parts: classes or tokens, adaLN per block or adaLN-single.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.interop.layouts.mapping import (
    Names,
    Rule,
    patch_conv,
    rules_of,
    several,
)
from i2i_prior.models.positions import sincos_2d
from i2i_prior.tasks.resolve import resolve

# Facts of the released code of arXiv 2212.09748, 2310.00426 and 2412.07767.
_OFFICIAL: Names = {
    "dit/patch_embed": "x_embedder.proj",
    "dit/time_embed/mlp/fc1": "t_embedder.mlp.0",
    "dit/time_embed/mlp/fc2": "t_embedder.mlp.2",
    "dit/pooled_embed/table": "y_embedder.embedding_table.weight",
    "conditioner/project/fc1": "y_embedder.y_proj.fc1",
    "conditioner/project/fc2": "y_embedder.y_proj.fc2",
    "conditioner/null": "y_embedder.y_embedding",
    "dit/size_embed/size/fc1": "csize_embedder.mlp.0",
    "dit/size_embed/size/fc2": "csize_embedder.mlp.2",
    "dit/size_embed/aspect/fc1": "ar_embedder.mlp.0",
    "dit/size_embed/aspect/fc2": "ar_embedder.mlp.2",
    "dit/blocks/attention/qkv": "blocks.{i}.attn.qkv",
    "dit/blocks/attention/out": "blocks.{i}.attn.proj",
    "dit/blocks/attention/q_norm": "blocks.{i}.attn.q_norm",
    "dit/blocks/attention/k_norm": "blocks.{i}.attn.k_norm",
    "dit/blocks/cross_attention/q": "blocks.{i}.cross_attn.q_linear",
    several(
        "dit/blocks/cross_attention/*", "kv"
    ): "blocks.{i}.cross_attn.kv_linear",
    "dit/blocks/cross_attention/out": "blocks.{i}.cross_attn.proj",
    "dit/blocks/mlp/fc1": "blocks.{i}.mlp.fc1",
    "dit/blocks/mlp/fc2": "blocks.{i}.mlp.fc2",
    "dit/blocks/table": "blocks.{i}.scale_shift_table",
    "dit/time_modulation": "t_block.1",
    "dit/blocks/modulation": "blocks.{i}.adaLN_modulation.1",
    "dit/final/modulation": "final_layer.adaLN_modulation.1",
    "dit/final/shift_scale": "final_layer.scale_shift_table",
    "dit/final/out": "final_layer.linear",
}
_TIME = "adaln_single.emb.timestep_embedder"
_SIZE = "adaln_single.emb.resolution_embedder"
_ASPECT = "adaln_single.emb.aspect_ratio_embedder"
_DIFFUSERS: Names = {
    "dit/patch_embed": "pos_embed.proj",
    "dit/time_embed/mlp/fc1": f"{_TIME}.linear_1",
    "dit/time_embed/mlp/fc2": f"{_TIME}.linear_2",
    "dit/time_modulation": "adaln_single.linear",
    "conditioner/project/fc1": "caption_projection.linear_1",
    "conditioner/project/fc2": "caption_projection.linear_2",
    "dit/size_embed/size/fc1": f"{_SIZE}.linear_1",
    "dit/size_embed/size/fc2": f"{_SIZE}.linear_2",
    "dit/size_embed/aspect/fc1": f"{_ASPECT}.linear_1",
    "dit/size_embed/aspect/fc2": f"{_ASPECT}.linear_2",
    "dit/blocks/attention/qkv": several(
        "transformer_blocks.{i}.attn1.to_*", "qkv"
    ),
    "dit/blocks/attention/out": "transformer_blocks.{i}.attn1.to_out.0",
    "dit/blocks/cross_attention/q": "transformer_blocks.{i}.attn2.to_q",
    "dit/blocks/cross_attention/k": "transformer_blocks.{i}.attn2.to_k",
    "dit/blocks/cross_attention/v": "transformer_blocks.{i}.attn2.to_v",
    "dit/blocks/cross_attention/out": "transformer_blocks.{i}.attn2.to_out.0",
    "dit/blocks/mlp/fc1": "transformer_blocks.{i}.ff.net.0.proj",
    "dit/blocks/mlp/fc2": "transformer_blocks.{i}.ff.net.2",
    "dit/blocks/table": "transformer_blocks.{i}.scale_shift_table",
    "dit/final/shift_scale": "scale_shift_table",
    "dit/final/out": "proj_out",
}


def dit_rules(
    config: ConfigDict, layout: str, arrays: Mapping[str, Any]
) -> list[Rule]:
    """Returns the rules between a config's parameters and a layout's keys."""
    patches = {"dit/patch_embed/kernel": patch_conv(config.model.patch)}
    return rules_of(names_of(layout), arrays, patches)


def names_of(layout: str) -> Names:
    """Returns the table of a layout."""
    return _DIFFUSERS if layout == "pixart_diffusers" else _OFFICIAL


def position_table(config: ConfigDict) -> np.ndarray:
    """Returns the official `pos_embed` buffer, float32 (1, N, D)."""
    shape = resolve(config).dit
    side = shape.input_size // shape.patch
    base = shape.base_size or side
    table = sincos_2d(shape.width, (side, side), base, shape.position_scale)
    return table[None]
