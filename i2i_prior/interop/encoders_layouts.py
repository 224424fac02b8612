"""How published image encoders name their weights: one table a layout.

A table says for each part of `models.vit.ViT` what others call it; `rules`
makes of it the operations that move the numbers. A part that a model lacks
has no entry, or is left out by the shape of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from i2i_prior.interop.mapping import (
    LINEAR,
    SAME,
    Rule,
    fused_there,
    linear,
    norm,
    patch_conv,
    reshaped,
    same,
    then,
)
from i2i_prior.models.families import FAMILIES, ViTConfig

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
    """How one library saves one family.

    Attributes:
      names: our part -> its key without `.weight`, after the prefix.
      family: of `FAMILIES`, where nothing says otherwise.
      prefixes: what may stand before every key but that of a projection; the
        first is what is written.
      ignore: regular expressions of keys that an encoder does not need.
      flat: class and position embeddings lack the leading axis of 1.
    """

    names: Names
    family: str
    prefixes: tuple[str, ...] = ("",)
    ignore: tuple[str, ...] = ()
    flat: bool = False


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
LAYOUTS: dict[str, Layout] = {
    "dino": Layout(_TIMM, "dino", ignore=_HEADS),
    "vit_hf": Layout(_VIT, "dino_hf", ("", "vit."), _VIT_EXTRA),
    "dinov2_hub": Layout(_TIMM, "dinov2_hub", ignore=_HEADS),
    "dinov2": Layout(
        _DINOV2, "dinov2", ("", "dinov2.", "dinov2_with_registers."), _VIT_EXTRA
    ),
    "clip": Layout(_CLIP, "clip", ("vision_model.", ""), _TEXT, flat=True),
    "clip_openai": Layout(
        _OPENAI, "clip", ("visual.",), _OPENAI_TEXT, flat=True
    ),
    "siglip": Layout(
        _SIGLIP, "siglip", ("vision_model.", ""), _TEXT, flat=True
    ),
    "mae": Layout(_TIMM, "mae", ignore=(*_HEADS, r"^decoder_")),
    "mae_hf": Layout(_VIT, "mae", ("vit.", ""), (*_VIT_EXTRA, r"^decoder\.")),
    "ijepa": Layout(_TIMM, "ijepa", ignore=_HEADS),
    "ijepa_hf": Layout(_VIT, "ijepa", ("", "ijepa."), _VIT_EXTRA),
}


def key_of(layout: Layout, part: str, prefix: str) -> str:
    """The (first) key of a part without `.weight`; "" where it has none."""
    names = layout.names.get(part, "")
    name = names if isinstance(names, str) else names[0]
    return name and (name if part == "projection" else prefix + name)


def fits(layout: Layout, config: ViTConfig) -> bool:
    """Whether a layout has names for all parts of a model, and no more."""
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


def rules(layout: Layout, config: ViTConfig, prefix: str) -> list[Rule]:
    """The table of a layout as operations, for a model of this shape.

    Args:
      layout: a value of `LAYOUTS`.
      config: which parts there are, and how many layers.
      prefix: one of the layout's.
    """
    family = FAMILIES[config.family]
    names = {part: key_of(layout, part, prefix) for part in layout.names}
    flat, patch = layout.flat, config.patch

    def layers(ours: str, theirs: str | tuple[str, ...]) -> list[Rule]:
        return linear(f"blocks/{ours}", theirs, layers=config.depth)

    def tokens(ours: str, count: int) -> Rule:
        shape = (
            (count, config.width) if ours == "positions" else (config.width,)
        )
        lead = (1,) * (3 - len(shape))
        op = reshaped((*lead, *shape), shape) if flat else SAME
        return Rule((ours,), (names[ours],), op)

    found = [
        Rule(
            ("patch_embed/kernel",),
            (f"{names['patch_embed']}.weight",),
            patch_conv(patch),
        ),
        tokens("positions", config.grid**2 + family.cls),
        *norm("norm", names["norm"]),
        *norm("blocks/norm1", names["norm1"], layers=config.depth),
        *norm("blocks/norm2", names["norm2"], layers=config.depth),
        *layers("attention/out", names["out"]),
    ]
    if family.patch_bias:
        key = f"{names['patch_embed']}.bias"
        found.append(same("patch_embed/bias", key))
    if family.cls:
        found.append(tokens("cls", 1))
    if config.registers:
        found.append(same("registers", names["registers"]))
    if family.pre_norm:
        found += norm("pre_norm", names["pre_norm"])
    qkv = layout.names["qkv"]
    if names["qkv"].endswith("in_proj"):
        found += _in_proj(
            ("blocks/attention/qkv",), names["qkv"], layers=config.depth
        )
    elif isinstance(qkv, str):
        found += layers("attention/qkv", names["qkv"])
    else:
        found += layers("attention/qkv", tuple(prefix + key for key in qkv))
    if config.swiglu:
        found += layers("mlp/gate_value", names["gate_value"])
        found += layers("mlp/out", names["gated_out"])
    else:
        found += layers("mlp/fc1", names["fc1"])
        found += layers("mlp/fc2", names["fc2"])
    if family.layer_scale:
        for part in ("scale1", "scale2"):
            found.append(
                same(f"blocks/{part}", names[part], layers=config.depth)
            )
    if family.attention_pool:
        found += _pool(names["pool"])
    if config.projection and names["projection"] == "visual.proj":
        found.append(same("projection/kernel", names["projection"]))
    elif config.projection:
        found += linear("projection", names["projection"], bias=False)
    return found


def _in_proj(
    ours: tuple[str, ...], key: str, layers: int | None = None
) -> list[Rule]:
    """torch.nn.MultiheadAttention's fused q, k, v."""
    fuse = fused_there(len(ours)) if len(ours) > 1 else SAME
    return [
        Rule(
            tuple(f"{name}/kernel" for name in ours),
            (f"{key}_weight",),
            then(fuse, LINEAR),
            layers,
        ),
        Rule(
            tuple(f"{name}/bias" for name in ours),
            (f"{key}_bias",),
            fuse,
            layers,
        ),
    ]


def _pool(key: str) -> list[Rule]:
    attention = tuple(f"pool/attention/{name}" for name in "qkv")
    return [
        same("pool/probe", f"{key}.probe"),
        *_in_proj(attention, f"{key}.attention.in_proj"),
        *linear("pool/attention/out", f"{key}.attention.out_proj"),
        *norm("pool/norm", f"{key}.layernorm"),
        *linear("pool/mlp/fc1", f"{key}.mlp.fc1"),
        *linear("pool/mlp/fc2", f"{key}.mlp.fc2"),
    ]
