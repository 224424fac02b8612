"""Layouts of published image encoders: a table of names for each.

A table has the key of each part of `models.vit.ViT`, without `.weight`. Parts
that no model of a layout has are left out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.mapping import Names, Op, Rule, several
from i2i_prior.models.encoder_families import FAMILIES, ViTConfig

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict

# The official code of DINO (timm's names), MAE, I-JEPA and DINOv2.
_TIMM: Names = {
    "patch_embed": "patch_embed.proj",
    "cls": "cls_token",
    "positions": "pos_embed",
    "blocks/norm1": "blocks.{i}.norm1",
    "blocks/attention/qkv": "blocks.{i}.attn.qkv",
    "blocks/attention/out": "blocks.{i}.attn.proj",
    "blocks/norm2": "blocks.{i}.norm2",
    "blocks/mlp/fc1": "blocks.{i}.mlp.fc1",
    "blocks/mlp/fc2": "blocks.{i}.mlp.fc2",
    "norm": "norm",
    "registers": "register_tokens",
    "blocks/scale1": "blocks.{i}.ls1.gamma",
    "blocks/scale2": "blocks.{i}.ls2.gamma",
    "blocks/mlp/gate_value": "blocks.{i}.mlp.w12",
    "blocks/mlp/out": "blocks.{i}.mlp.w3",
}
_VIT: Names = {
    "patch_embed": "embeddings.patch_embeddings.projection",
    "cls": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "blocks/norm1": "encoder.layer.{i}.layernorm_before",
    "blocks/attention/qkv": several(
        "encoder.layer.{i}.attention.attention.*", ("query", "key", "value")
    ),
    "blocks/attention/out": "encoder.layer.{i}.attention.output.dense",
    "blocks/norm2": "encoder.layer.{i}.layernorm_after",
    "blocks/mlp/fc1": "encoder.layer.{i}.intermediate.dense",
    "blocks/mlp/fc2": "encoder.layer.{i}.output.dense",
    "norm": "layernorm",
}
_DINOV2: Names = {
    **_VIT,
    "blocks/norm1": "encoder.layer.{i}.norm1",
    "blocks/norm2": "encoder.layer.{i}.norm2",
    "blocks/mlp/fc1": "encoder.layer.{i}.mlp.fc1",
    "blocks/mlp/fc2": "encoder.layer.{i}.mlp.fc2",
    "registers": "embeddings.register_tokens",
    "blocks/scale1": "encoder.layer.{i}.layer_scale1.lambda1",
    "blocks/scale2": "encoder.layer.{i}.layer_scale2.lambda1",
    "blocks/mlp/gate_value": "encoder.layer.{i}.mlp.weights_in",
    "blocks/mlp/out": "encoder.layer.{i}.mlp.weights_out",
}
# Names of the same modules in transformers 5, and so in a
# `torch.save(model.state_dict())`; `save_pretrained` writes the names above.
_VIT_MEMORY: Names = {
    **_VIT,
    "blocks/norm1": "layers.{i}.layernorm_before",
    "blocks/attention/qkv": several("layers.{i}.attention.*_proj", "qkv"),
    "blocks/attention/out": "layers.{i}.attention.o_proj",
    "blocks/norm2": "layers.{i}.layernorm_after",
    "blocks/mlp/fc1": "layers.{i}.mlp.fc1",
    "blocks/mlp/fc2": "layers.{i}.mlp.fc2",
}
_DINOV2_MEMORY: Names = {
    **_DINOV2,
    "blocks/attention/qkv": several(
        "encoder.layer.{i}.attention.*_proj", "qkv"
    ),
    "blocks/attention/out": "encoder.layer.{i}.attention.o_proj",
    "blocks/mlp/gate_value": (
        "encoder.layer.{i}.mlp.gate_proj",
        "encoder.layer.{i}.mlp.up_proj",
    ),
    "blocks/mlp/out": "encoder.layer.{i}.mlp.down_proj",
}
_SIGLIP: Names = {
    "patch_embed": "embeddings.patch_embedding",
    "positions": "embeddings.position_embedding.weight",
    "blocks/norm1": "encoder.layers.{i}.layer_norm1",
    "blocks/attention/qkv": several(
        "encoder.layers.{i}.self_attn.*_proj", "qkv"
    ),
    "blocks/attention/out": "encoder.layers.{i}.self_attn.out_proj",
    "blocks/norm2": "encoder.layers.{i}.layer_norm2",
    "blocks/mlp/fc1": "encoder.layers.{i}.mlp.fc1",
    "blocks/mlp/fc2": "encoder.layers.{i}.mlp.fc2",
    "norm": "post_layernorm",
    "pool/probe": "head.probe",
    several("pool/attention/*", "qkv"): "head.attention.in_proj_",
    "pool/attention/out": "head.attention.out_proj",
    "pool/norm": "head.layernorm",
    "pool/mlp/fc1": "head.mlp.fc1",
    "pool/mlp/fc2": "head.mlp.fc2",
}
_CLIP: Names = {
    **_SIGLIP,
    "cls": "embeddings.class_embedding",
    "pre_norm": "pre_layrnorm",  # sic
    "projection": "visual_projection",
}
_OPENAI: Names = {
    "patch_embed": "conv1",
    "cls": "class_embedding",
    "positions": "positional_embedding",
    "blocks/norm1": "transformer.resblocks.{i}.ln_1",
    "blocks/attention/qkv": "transformer.resblocks.{i}.attn.in_proj_",
    "blocks/attention/out": "transformer.resblocks.{i}.attn.out_proj",
    "blocks/norm2": "transformer.resblocks.{i}.ln_2",
    "blocks/mlp/fc1": "transformer.resblocks.{i}.mlp.c_fc",
    "blocks/mlp/fc2": "transformer.resblocks.{i}.mlp.c_proj",
    "norm": "ln_post",
    "pre_norm": "ln_pre",
    "projection/kernel": "visual.proj",
}


@dataclass(frozen=True)
class Layout:
    """Layout of one library for one family."""

    names: Names  # of the parts, after the prefix
    family: str  # of `FAMILIES`, the default
    # Of every key but that of a projection; the first is written.
    prefixes: tuple[str, ...] = ("",)
    ignore: tuple[str, ...] = ()  # patterns of keys that it does not need
    flat: bool = False  # class and positions lack the leading axis of 1
    epsilon: float = 0.0  # without a config.json; 0 for the family's


_VIT_EXTRA = (r"(^|\.)pooler\.", r"^classifier\.", r"embeddings\.mask_token$")
_TEXT = (
    r"^text_model\.",
    r"^text_projection\.",
    r"^logit_(scale|bias)$",
    r"position_ids$",
)
_OPENAI_TEXT = (
    r"^(transformer|token_embedding|ln_final)\.",
    r"^(positional_embedding|text_projection|logit_scale|attn_mask)$",
    r"^(input_resolution|context_length|vocab_size)$",
)
_HEADS = (r"^(head|fc_norm|linear_head)\.", r"^mask_token$")
_MAE_EXTRA = (*_VIT_EXTRA, r"^decoder\.")
_OF_DINOV2 = ("", "dinov2.", "dinov2_with_registers.")
VIT_EPSILON = 1e-12  # the default of transformers' ViT, ViTMAE and IJepa
LAYOUTS: dict[str, Layout] = {
    "dino": Layout(_TIMM, "dino", ignore=_HEADS),
    "dinov2_hub": Layout(_TIMM, "dinov2_hub", ignore=_HEADS),
    "dinov2": Layout(_DINOV2, "dinov2", _OF_DINOV2, _VIT_EXTRA),
    "dinov2_memory": Layout(_DINOV2_MEMORY, "dinov2", _OF_DINOV2, _VIT_EXTRA),
    "clip": Layout(_CLIP, "clip", ("vision_model.", ""), _TEXT, flat=True),
    "clip_openai": Layout(
        _OPENAI, "clip", ("visual.",), _OPENAI_TEXT, flat=True
    ),
    "siglip": Layout(
        _SIGLIP, "siglip", ("vision_model.", ""), _TEXT, flat=True
    ),
    "mae": Layout(_TIMM, "mae", ignore=(*_HEADS, r"^decoder_")),
    "ijepa": Layout(_TIMM, "ijepa", ignore=_HEADS),
    **{
        f"{name}_{kind}": Layout(
            names, family, prefixes, ignore, epsilon=VIT_EPSILON
        )
        for kind, names in (("hf", _VIT), ("memory", _VIT_MEMORY))
        for name, family, prefixes, ignore in (
            ("vit", "dino_hf", ("", "vit."), _VIT_EXTRA),
            ("mae", "mae", ("vit.", ""), _MAE_EXTRA),
            ("ijepa", "ijepa", ("", "ijepa."), _VIT_EXTRA),
        )
    },
}


def keys_of(layout: Layout, prefix: str) -> Names:
    """Returns the names of a layout with one of its prefixes."""
    but = ("projection", "projection/kernel")
    return mapping.prefixed(layout.names, prefix, but)


def vit_rules(
    layout: Layout, config: ViTConfig, prefix: str, arrays: Mapping[str, Any]
) -> list[Rule]:
    """Returns the rules of a layout, for an encoder of this config.

    The layout is a value of `LAYOUTS`, `prefix` one of its prefixes; `arrays`
    has an array or struct with a shape by each name of `ViT`.
    """
    ops: dict[str, Op] = {
        "patch_embed/kernel": mapping.patch_conv(config.patch)
    }
    if "projection/kernel" in layout.names:  # a bare matrix (D, P)
        ops["projection/kernel"] = mapping.SAME
    if layout.flat:
        for name, axes in (("cls", 2), ("positions", 1)):
            if name in arrays:
                shape = arrays[name].shape
                ops[name] = mapping.reshaped(shape, shape[axes:])
    return mapping.rules_of(keys_of(layout, prefix), arrays, ops)


def fits(layout: Layout, config: ViTConfig) -> bool:
    """Returns True if a layout has names for exactly the parts of a model."""
    family, own = FAMILIES[config.family], FAMILIES[layout.family]
    optional = {
        "registers": config.registers,
        "blocks/mlp/gate_value": config.swiglu,
        "projection": config.projection,
    }
    return all(
        part in layout.names or f"{part}/kernel" in layout.names
        for part, there in optional.items()
        if there
    ) and all(
        getattr(family, part) == getattr(own, part)
        for part in (
            "cls",
            "layer_scale",
            "pre_norm",
            "patch_bias",
            "norm_patches",
            "attention_pool",
        )
    )


def detect(state: StateDict) -> str | None:
    """Returns the layout of a file's keys, None if it is unknown.

    Official DINO, MAE and I-JEPA have the same names: without a CLS token it
    is I-JEPA, with a decoder MAE, else DINO. Only a config.json distinguishes
    a bare ViTMAEModel from a ViTModel.
    """
    shapes, scale = state.shapes, "encoder.layer.0.layer_scale1.lambda1"
    if {"visual.conv1.weight", "visual.class_embedding"} <= shapes.keys():
        return "clip_openai"
    for name, *marks in (
        ("siglip", "head.probe"),
        ("clip", "pre_layrnorm.weight"),
        ("dinov2_memory", scale, "encoder.layer.0.attention.q_proj.weight"),
        ("dinov2", scale),
    ):
        for prefix in LAYOUTS[name].prefixes:
            if all(prefix + mark in shapes for mark in marks):
                return name
    if "blocks.0.ls1.gamma" in shapes:
        return "dinov2_hub"
    for kind, layer in (("hf", "encoder.layer.0."), ("memory", "layers.0.")):
        for prefix in ("", "vit.", "ijepa."):
            if f"{prefix}{layer}layernorm_before.weight" in shapes:
                return f"{_vit_class(state, prefix)}_{kind}"
    if {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= shapes.keys():
        if "cls_token" not in shapes:
            return "ijepa"
        return "mae" if "decoder_pos_embed" in shapes else "dino"
    return None


def _vit_class(state: StateDict, prefix: str) -> str:
    """Distinguishes classes of transformers with the same names."""
    if f"{prefix}embeddings.cls_token" not in state.shapes:
        return "ijepa"
    mae = any(key.startswith("decoder.decoder_") for key in state.shapes)
    mae |= (state.config or {}).get("model_type") == "vit_mae"
    return "mae" if mae else "vit"
