"""Layouts of published diffusion transformers.

There are two: the official one (of DiT, SiT, REPA, PixArt-alpha and Lumos)
and that of diffusers' PixArtTransformer2DModel. The config determines the
parts: classes or tokens, adaLN per block or adaLN-single, sizes.
"""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.layouts.mapping import (
    Rule,
    linear,
    norm,
    patch_conv,
    same,
)
from i2i_prior.models.blocks import BLOCKS
from i2i_prior.models.blocks.modulation import AdaFinalLayer
from i2i_prior.models.positions import sincos_2d
from i2i_prior.tasks.resolve import resolve


def rules_of(config: ConfigDict, layout: str) -> list[Rule]:
    """Returns the rules between a config's parameters and a layout's keys."""
    if layout == "pixart_diffusers":
        return diffusers_rules(config)
    return official_rules(config)


def official_rules(config: ConfigDict) -> list[Rule]:
    """Rules of the official names.

    They are facts of the released code of arXiv 2212.09748, 2310.00426 and
    2412.07767.
    """
    model, layers = config.model, config.model.depth
    rules = [
        Rule(
            ("dit/patch_embed/kernel",),
            ("x_embedder.proj.weight",),
            patch_conv(model.patch),
        ),
        same("dit/patch_embed/bias", "x_embedder.proj.bias"),
        *_mlp("dit/time_embed/mlp", "t_embedder.mlp.0", "t_embedder.mlp.2"),
    ]
    if model.classes:
        table = "y_embedder.embedding_table.weight"
        rules.append(same("dit/pooled_embed/table", table))
    if config.conditioner.tokens_from != "none":
        name = "y_embedder.y_proj"
        rules += _mlp("conditioner/project", f"{name}.fc1", f"{name}.fc2")
        rules.append(same("conditioner/null", "y_embedder.y_embedding"))
    if model.size_conditions:
        for ours, theirs in (("size", "csize"), ("aspect", "ar")):
            name = f"{theirs}_embedder.mlp"
            rules += _mlp(f"dit/size_embed/{ours}", f"{name}.0", f"{name}.2")

    def block(ours: str | tuple[str, ...], theirs: str) -> list[Rule]:
        names = (ours,) if isinstance(ours, str) else ours
        names = tuple(f"dit/blocks/{name}" for name in names)
        return linear(names, f"blocks.{{i}}.{theirs}", layers=layers)

    rules += block("attention/qkv", "attn.qkv")
    rules += block("attention/out", "attn.proj")
    if model.qk_norm:
        for part in "qk":
            ours = f"dit/blocks/attention/{part}_norm"
            theirs = f"blocks.{{i}}.attn.{part}_norm"
            rules += norm(ours, theirs, layers=layers)
    if config.conditioner.tokens_from != "none":
        fused = ("cross_attention/k", "cross_attention/v")
        rules += block("cross_attention/q", "cross_attn.q_linear")
        rules += block(fused, "cross_attn.kv_linear")
        rules += block("cross_attention/out", "cross_attn.proj")
    rules += block("mlp/fc1", "mlp.fc1") + block("mlp/fc2", "mlp.fc2")
    if BLOCKS[model.block].shared_modulations:
        table = "blocks.{i}.scale_shift_table"
        rules.append(same("dit/blocks/table", table, layers=layers))
        rules += linear("dit/time_modulation", "t_block.1")
    else:
        rules += block("modulation", "adaLN_modulation.1")
    if BLOCKS[model.block].final is AdaFinalLayer:
        name = "final_layer.adaLN_modulation.1"
        rules += linear("dit/final/modulation", name)
    else:
        table = "final_layer.scale_shift_table"
        rules.append(same("dit/final/shift_scale", table))
    return rules + linear("dit/final/out", "final_layer.linear")


def diffusers_rules(config: ConfigDict) -> list[Rule]:
    """Rules of diffusers' PixArtTransformer2DModel."""
    model, layers = config.model, config.model.depth
    embedders = "adaln_single.emb"
    rules = [
        Rule(
            ("dit/patch_embed/kernel",),
            ("pos_embed.proj.weight",),
            patch_conv(model.patch),
        ),
        same("dit/patch_embed/bias", "pos_embed.proj.bias"),
        *_pair("dit/time_embed/mlp", f"{embedders}.timestep_embedder"),
        *linear("dit/time_modulation", "adaln_single.linear"),
        *_pair("conditioner/project", "caption_projection"),
    ]
    if model.size_conditions:
        for ours, theirs in (
            ("size", "resolution"),
            ("aspect", "aspect_ratio"),
        ):
            name = f"{embedders}.{theirs}_embedder"
            rules += _pair(f"dit/size_embed/{ours}", name)

    def block(ours: str, theirs: str | tuple[str, ...]) -> list[Rule]:
        names = (theirs,) if isinstance(theirs, str) else theirs
        names = tuple(f"transformer_blocks.{{i}}.{name}" for name in names)
        return linear(f"dit/blocks/{ours}", names, layers=layers)

    rules += block("attention/qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v"))
    rules += block("attention/out", "attn1.to_out.0")
    for part in "qkv":
        rules += block(f"cross_attention/{part}", f"attn2.to_{part}")
    rules += block("cross_attention/out", "attn2.to_out.0")
    rules += block("mlp/fc1", "ff.net.0.proj") + block("mlp/fc2", "ff.net.2")
    table = "transformer_blocks.{i}.scale_shift_table"
    rules.append(same("dit/blocks/table", table, layers=layers))
    rules.append(same("dit/final/shift_scale", "scale_shift_table"))
    return rules + linear("dit/final/out", "proj_out")


def _mlp(ours: str, first: str, second: str) -> list[Rule]:
    return linear(f"{ours}/fc1", first) + linear(f"{ours}/fc2", second)


def _pair(ours: str, theirs: str) -> list[Rule]:
    return _mlp(ours, f"{theirs}.linear_1", f"{theirs}.linear_2")


def position_table(config: ConfigDict) -> np.ndarray:
    """Returns the official `pos_embed` buffer, float32 (1, N, D)."""
    shape = resolve(config).dit
    side = shape.input_size // shape.patch
    base = shape.base_size or side
    table = sincos_2d(shape.width, (side, side), base, shape.position_scale)
    return table[None]


def position_tensor(config: ConfigDict) -> tuple[str, LazyTensor]:
    """Returns the key and tensor of the official `pos_embed` buffer."""
    table = position_table(config)
    return "pos_embed", LazyTensor(table.shape, lambda: table)
