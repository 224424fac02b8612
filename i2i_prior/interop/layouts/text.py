"""Layouts of text encoders: T5 and CLIP of Hugging Face and OpenAI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.interop.layouts.mapping import (
    LINEAR,
    SAME,
    Rule,
    Shape,
    linear,
    norm,
    same,
)
from i2i_prior.models.text_clip import ClipTextConfig
from i2i_prior.models.text_t5 import T5Config

TextConfig = T5Config | ClipTextConfig

# Names of T5's embedding in files: one of them, or both, tied.
SHARED = "shared.weight"
TIED = "encoder.embed_tokens.weight"
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"

# Key that identifies a layout, and pattern of its numbered layers.
_MARKS = {
    "t5": "encoder.block.0.layer.0.SelfAttention.q.weight",
    "clip_text": "encoder.layers.0.self_attn.q_proj.weight",
    "clip_text_openai": "transformer.resblocks.0.attn.in_proj_weight",
}
_LAYERS = {
    "t5": r"encoder\.block\.(\d+)\.",
    "clip_text": r"(?:text_model\.)?encoder\.layers\.(\d+)\.",
    "clip_text_openai": r"transformer\.resblocks\.(\d+)\.",
}

# Other keys of a file, which are not read.
IGNORED = {
    "t5": (r"^decoder\.", r"^lm_head\.", rf"^({SHARED}|{TIED})$"),
    "clip_text": (
        r"^vision_model\.",
        r"^visual_projection\.",
        r"^logit_scale$",
        r"embeddings\.position_ids$",
    ),
    "clip_text_openai": (
        r"^visual\.",
        r"^logit_scale$",
        r"^attn_mask$",
        r"^(input_resolution|context_length|vocab_size)$",
    ),
}


def prefix_of(shapes: Mapping[str, Any]) -> str:
    """Returns the prefix of Hugging Face's CLIP: text_model. or nothing."""
    prefix = "text_model."
    return prefix if prefix + _MARKS["clip_text"] in shapes else ""


def detect(state: Mapping[str, Any]) -> str | None:
    """Returns the layout of a state dict's keys, None if it is unknown.

    Args:
      state: a `StateDict`, or another mapping of its keys.

    Returns:
      "t5": Hugging Face T5EncoderModel, or a whole T5 with its decoder;
      "clip_text": Hugging Face CLIPTextModel, the same with projection, or
      the text half of CLIPModel;
      "clip_text_openai": OpenAI's CLIP (and OpenCLIP's, unless its text
      tower is under `text.`).
    """
    if _MARKS["t5"] in state:
        return "t5"
    if (
        _MARKS["clip_text_openai"] in state
        and "token_embedding.weight" in state
    ):
        return "clip_text_openai"
    names = (_MARKS["clip_text"], "embeddings.token_embedding.weight")
    if all(prefix_of(state) + name in state for name in names):
        return "clip_text"
    return None


def config_of(
    layout: str,
    shapes: Mapping[str, Shape],
    settings: Mapping[str, Any],
    *,
    path: Any,
    heads: int | None = None,
    activation: str | None = None,
    precision: str = "float32",
) -> TextConfig:
    """Returns the encoder's config, from its shapes and its config.json.

    Args:
      layout: of `detect`.
      shapes: key -> shape.
      settings: content of config.json; empty where there is none.
      path: for the message.
      heads, activation: override the settings. Without either, T5's heads
        are those of its bias table and CLIP's have 64 channels; the
        activation is gelu_new in T5 v1.1, relu in the first T5, quick_gelu
        in CLIP.
      precision: a name of `models.precision.PRECISIONS`.

    Raises:
      UserError: a key that the config needs is missing.
    """
    pattern = re.compile(_LAYERS[layout])
    found = [int(m.group(1)) for key in shapes if (m := pattern.match(key))]
    common: dict[str, Any] = {"depth": max(found) + 1, "precision": precision}
    settings = settings.get("text_config") or settings
    read = _t5_config if layout == "t5" else _clip_config
    try:
        return read(layout, shapes, settings, heads, activation, common)
    except KeyError as error:
        raise UserError(
            f"{path} is not the {layout} checkpoint it looks like: the key "
            f"{error.args[0]} is missing; nothing was loaded"
        ) from error


def _t5_config(layout, shapes, settings, heads, activation, common):
    layer = "encoder.block.0.layer"
    buckets, table_heads = shapes[BIAS]
    heads = heads or table_heads
    gated = f"{layer}.1.DenseReluDense.wi_0.weight" in shapes
    first = "wi_0" if gated else "wi"
    named = settings.get("feed_forward_proj")
    if named in (None, "gated-gelu"):  # transformers means gelu_new by it
        named = "gelu_new" if gated else "relu"
    vocabulary, width = shapes[SHARED if SHARED in shapes else TIED]
    return T5Config(
        vocabulary=vocabulary,
        width=width,
        heads=heads,
        head_width=shapes[_MARKS["t5"]][0] // heads,
        hidden=shapes[f"{layer}.1.DenseReluDense.{first}.weight"][0],
        gated=gated,
        activation=activation or named.removeprefix("gated-"),
        buckets=buckets,
        max_distance=settings.get("relative_attention_max_distance", 128),
        epsilon=settings.get("layer_norm_epsilon", 1e-6),
        **common,
    )


def _clip_config(layout, shapes, settings, heads, activation, common):
    if layout == "clip_text_openai":
        tokens, positions = "token_embedding.weight", "positional_embedding"
        hidden = "transformer.resblocks.0.mlp.c_fc.weight"
        projection = shapes.get("text_projection", (0, 0))[1]
    else:
        prefix = prefix_of(shapes)
        tokens = f"{prefix}embeddings.token_embedding.weight"
        positions = f"{prefix}embeddings.position_embedding.weight"
        hidden = f"{prefix}encoder.layers.0.mlp.fc1.weight"
        projection = shapes.get("text_projection.weight", (0, 0))[0]
    vocabulary, width = shapes[tokens]
    end = settings.get("eos_token_id")
    return ClipTextConfig(
        vocabulary=vocabulary,
        length=shapes[positions][0],
        width=width,
        heads=heads or settings.get("num_attention_heads") or width // 64 or 1,
        hidden=shapes[hidden][0],
        projection=projection,
        # Old configs of CLIP have 2, which is wrong; transformers then takes
        # the largest id, as is done here.
        end=end if isinstance(end, int) and end != 2 else None,
        activation=activation or settings.get("hidden_act", "quick_gelu"),
        epsilon=settings.get("layer_norm_eps", 1e-5),
        **common,
    )


def rules_of(
    layout: str,
    config: TextConfig,
    *,
    embedding: str = SHARED,
    prefix: str = "text_model.",
) -> list[Rule]:
    """Returns the rules between a layout's keys and the parameters.

    Args:
      layout: of `detect`.
      config: of the encoder.
      embedding: the key of T5's embedding.
      prefix: of the keys of "clip_text".
    """
    if isinstance(config, T5Config):
        return _t5_rules(config, embedding)
    if layout == "clip_text_openai":
        return _openai_rules(config)
    return _clip_rules(config, prefix)


def _t5_rules(config: T5Config, embedding: str) -> list[Rule]:
    attention = "encoder.block.{i}.layer.0"
    mlp = "encoder.block.{i}.layer.1"
    dense = f"{mlp}.DenseReluDense"
    first = tuple(
        f"{dense}.{name}"
        for name in (("wi_0", "wi_1") if config.gated else ("wi",))
    )
    qkv = tuple(f"{attention}.SelfAttention.{name}" for name in "qkv")
    out = f"{attention}.SelfAttention.o"
    stacked: dict[str, Any] = {"layers": config.depth}
    plain: dict[str, Any] = {**stacked, "bias": False}
    gain1, gain2 = "blocks/norm1/gain", "blocks/norm2/gain"
    return [
        same("embedding", embedding),
        same("relative_bias", BIAS),
        same(gain1, f"{attention}.layer_norm.weight", **stacked),
        *linear("blocks/attention/qkv", qkv, **plain),
        *linear("blocks/attention/out", out, **plain),
        same(gain2, f"{mlp}.layer_norm.weight", **stacked),
        *linear("blocks/mlp/fc1", first, **plain),
        *linear("blocks/mlp/fc2", f"{dense}.wo", **plain),
        same("norm/gain", "encoder.final_layer_norm.weight"),
    ]


def _clip_rules(config: ClipTextConfig, prefix: str) -> list[Rule]:
    layer = prefix + "encoder.layers.{i}"
    attention = f"{layer}.self_attn"
    qkv = tuple(f"{attention}.{name}_proj" for name in "qkv")
    stacked: dict[str, Any] = {"layers": config.depth}
    rules = [
        same("embedding", f"{prefix}embeddings.token_embedding.weight"),
        same("positions", f"{prefix}embeddings.position_embedding.weight"),
        *norm("blocks/norm1", f"{layer}.layer_norm1", **stacked),
        *linear("blocks/attention/qkv", qkv, **stacked),
        *linear("blocks/attention/out", f"{attention}.out_proj", **stacked),
        *norm("blocks/norm2", f"{layer}.layer_norm2", **stacked),
        *linear("blocks/mlp/fc1", f"{layer}.mlp.fc1", **stacked),
        *linear("blocks/mlp/fc2", f"{layer}.mlp.fc2", **stacked),
        *norm("norm", f"{prefix}final_layer_norm"),
    ]
    if config.projection:
        rules += linear("project", "text_projection", bias=False)
    return rules


def _openai_rules(config: ClipTextConfig) -> list[Rule]:
    layer = "transformer.resblocks.{i}"
    stacked: dict[str, Any] = {"layers": config.depth}
    qkv = "blocks/attention/qkv"
    rules = [
        same("embedding", "token_embedding.weight"),
        same("positions", "positional_embedding"),
        *norm("blocks/norm1", f"{layer}.ln_1", **stacked),
        Rule(
            (f"{qkv}/kernel",),
            (f"{layer}.attn.in_proj_weight",),
            LINEAR,
            **stacked,
        ),
        same(f"{qkv}/bias", f"{layer}.attn.in_proj_bias", **stacked),
        *linear("blocks/attention/out", f"{layer}.attn.out_proj", **stacked),
        *norm("blocks/norm2", f"{layer}.ln_2", **stacked),
        *linear("blocks/mlp/fc1", f"{layer}.mlp.c_fc", **stacked),
        *linear("blocks/mlp/fc2", f"{layer}.mlp.c_proj", **stacked),
        *norm("norm", "ln_final"),
    ]
    if config.projection:  # a bare matrix (D, P), not a Linear's (P, D)
        rules.append(Rule(("project/kernel",), ("text_projection",), SAME))
    return rules
