"""Layouts of published image encoders: a table of names for each.

A table has the key of each part of `models.vit.ViT`; `encoders.rules` turns it
into rules. A part that a model does not have has no entry, or is omitted
because of the model's config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from i2i_prior.models.encoder_families import FAMILIES, ViTConfig

Names = Mapping[str, str | tuple[str, ...]]

_SEPARATE = ("query", "key", "value")
# The official code of DINO (timm's names), MAE, I-JEPA and DINOv2.
_TIMM: Names = {
    "patch_embed": "patch_embed.proj",
    "cls": "cls_token",
    "positions": "pos_embed",
    "norm1": "blocks.{i}.norm1",
    "qkv": "blocks.{i}.attn.qkv",
    "out": "blocks.{i}.attn.proj",
    "norm2": "blocks.{i}.norm2",
    "fc1": "blocks.{i}.mlp.fc1",
    "fc2": "blocks.{i}.mlp.fc2",
    "norm": "norm",
    "registers": "register_tokens",
    "scale1": "blocks.{i}.ls1.gamma",
    "scale2": "blocks.{i}.ls2.gamma",
    "gate_value": "blocks.{i}.mlp.w12",
    "gated_out": "blocks.{i}.mlp.w3",
}
_VIT: Names = {
    "patch_embed": "embeddings.patch_embeddings.projection",
    "cls": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "norm1": "encoder.layer.{i}.layernorm_before",
    "qkv": tuple(
        f"encoder.layer.{{i}}.attention.attention.{name}" for name in _SEPARATE
    ),
    "out": "encoder.layer.{i}.attention.output.dense",
    "norm2": "encoder.layer.{i}.layernorm_after",
    "fc1": "encoder.layer.{i}.intermediate.dense",
    "fc2": "encoder.layer.{i}.output.dense",
    "norm": "layernorm",
}
_DINOV2: Names = {
    **_VIT,
    "norm1": "encoder.layer.{i}.norm1",
    "norm2": "encoder.layer.{i}.norm2",
    "fc1": "encoder.layer.{i}.mlp.fc1",
    "fc2": "encoder.layer.{i}.mlp.fc2",
    "registers": "embeddings.register_tokens",
    "scale1": "encoder.layer.{i}.layer_scale1.lambda1",
    "scale2": "encoder.layer.{i}.layer_scale2.lambda1",
    "gate_value": "encoder.layer.{i}.mlp.weights_in",
    "gated_out": "encoder.layer.{i}.mlp.weights_out",
}
# Names of the same modules in transformers 5, and so in a
# `torch.save(model.state_dict())`; `save_pretrained` writes the names above.
_PROJECTIONS = tuple(f"attention.{name}_proj" for name in "qkv")
_VIT_MEMORY: Names = {
    **_VIT,
    "norm1": "layers.{i}.layernorm_before",
    "qkv": tuple(f"layers.{{i}}.{name}" for name in _PROJECTIONS),
    "out": "layers.{i}.attention.o_proj",
    "norm2": "layers.{i}.layernorm_after",
    "fc1": "layers.{i}.mlp.fc1",
    "fc2": "layers.{i}.mlp.fc2",
}
_DINOV2_MEMORY: Names = {
    **_DINOV2,
    "qkv": tuple(f"encoder.layer.{{i}}.{name}" for name in _PROJECTIONS),
    "out": "encoder.layer.{i}.attention.o_proj",
    "gate_value": (
        "encoder.layer.{i}.mlp.gate_proj",
        "encoder.layer.{i}.mlp.up_proj",
    ),
    "gated_out": "encoder.layer.{i}.mlp.down_proj",
}
_SIGLIP: Names = {
    "patch_embed": "embeddings.patch_embedding",
    "positions": "embeddings.position_embedding.weight",
    "norm1": "encoder.layers.{i}.layer_norm1",
    "qkv": tuple(f"encoder.layers.{{i}}.self_attn.{n}_proj" for n in "qkv"),
    "out": "encoder.layers.{i}.self_attn.out_proj",
    "norm2": "encoder.layers.{i}.layer_norm2",
    "fc1": "encoder.layers.{i}.mlp.fc1",
    "fc2": "encoder.layers.{i}.mlp.fc2",
    "norm": "post_layernorm",
    "pool": "head",
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
    "norm1": "transformer.resblocks.{i}.ln_1",
    "qkv": "transformer.resblocks.{i}.attn.in_proj",
    "out": "transformer.resblocks.{i}.attn.out_proj",
    "norm2": "transformer.resblocks.{i}.ln_2",
    "fc1": "transformer.resblocks.{i}.mlp.c_fc",
    "fc2": "transformer.resblocks.{i}.mlp.c_proj",
    "norm": "ln_post",
    "pre_norm": "ln_pre",
    "projection": "visual.proj",
}


@dataclass(frozen=True)
class Layout:
    """Layout of one library for one family.

    Attributes:
      names: our part -> its key without `.weight`, after the prefix; several
        keys where they are fused in our array.
      family: of `FAMILIES`, the default.
      prefixes: possible prefixes of every key but that of a projection; the
        first is written.
      ignore: regular expressions of keys that an encoder does not need.
      flat: class and position embeddings lack the leading axis of 1.
      epsilon: of every LayerNorm without a config.json; 0 for the family's.
    """

    names: Names
    family: str
    prefixes: tuple[str, ...] = ("",)
    ignore: tuple[str, ...] = ()
    flat: bool = False
    epsilon: float = 0.0


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


def key_of(layout: Layout, part: str, prefix: str) -> str:
    """Returns the (first) key of a part without `.weight`; "" without one."""
    names = layout.names.get(part, "")
    name = names if isinstance(names, str) else names[0]
    return name and (name if part == "projection" else prefix + name)


def fits(layout: Layout, config: ViTConfig) -> bool:
    """Returns True if a layout has names for exactly the parts of a model."""
    family, own = FAMILIES[config.family], FAMILIES[layout.family]
    optional = {
        "registers": config.registers,
        "gate_value": config.swiglu,
        "projection": config.projection,
    }
    return all(
        part in layout.names for part, there in optional.items() if there
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
