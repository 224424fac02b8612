"""Layouts of text encoders: T5 and CLIP of Hugging Face and OpenAI."""

from collections.abc import Mapping
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.mapping import Names, Rule, Shape, several
from i2i_prior.models.text_clip import ClipTextConfig
from i2i_prior.models.text_t5 import T5Config

TextConfig = T5Config | ClipTextConfig

# Names of T5's embedding in files: one of them, or both, tied.
SHARED = "shared.weight"
TIED = "encoder.embed_tokens.weight"
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_DENSE = "encoder.block.{i}.layer.1.DenseReluDense"
# Names of Hugging Face's CLIP, after `text_model.` or nothing; of the
# projection without it.
_CLIP = "encoder.layers.{i}"
_OPENAI = "transformer.resblocks.{i}"
_NAMES: dict[str, Names] = {
    "t5": {
        "embedding": SHARED,
        "relative_bias": BIAS,
        "blocks/norm1": "encoder.block.{i}.layer.0.layer_norm",
        "blocks/attention/qkv": several(
            "encoder.block.{i}.layer.0.SelfAttention.*", "qkv"
        ),
        "blocks/attention/out": "encoder.block.{i}.layer.0.SelfAttention.o",
        "blocks/norm2": "encoder.block.{i}.layer.1.layer_norm",
        "blocks/mlp/fc1": several(f"{_DENSE}.wi_*", "01"),
        "blocks/mlp/fc2": f"{_DENSE}.wo",
        "norm": "encoder.final_layer_norm",
    },
    "clip_text": {
        "embedding": "embeddings.token_embedding.weight",
        "positions": "embeddings.position_embedding.weight",
        "blocks/norm1": f"{_CLIP}.layer_norm1",
        "blocks/attention/qkv": several(f"{_CLIP}.self_attn.*_proj", "qkv"),
        "blocks/attention/out": f"{_CLIP}.self_attn.out_proj",
        "blocks/norm2": f"{_CLIP}.layer_norm2",
        "blocks/mlp/fc1": f"{_CLIP}.mlp.fc1",
        "blocks/mlp/fc2": f"{_CLIP}.mlp.fc2",
        "norm": "final_layer_norm",
        "project": "text_projection",
    },
    "clip_text_openai": {
        "embedding": "token_embedding.weight",
        "positions": "positional_embedding",
        "blocks/norm1": f"{_OPENAI}.ln_1",
        "blocks/attention/qkv": f"{_OPENAI}.attn.in_proj_",
        "blocks/attention/out": f"{_OPENAI}.attn.out_proj",
        "blocks/norm2": f"{_OPENAI}.ln_2",
        "blocks/mlp/fc1": f"{_OPENAI}.mlp.c_fc",
        "blocks/mlp/fc2": f"{_OPENAI}.mlp.c_proj",
        "norm": "ln_final",
        "project/kernel": "text_projection",
    },
}
# A bare matrix (D, P), not a Linear's (P, D).
_OPS = {"clip_text_openai": {"project/kernel": mapping.SAME}}

# Key that identifies a layout.
_MARKS = {
    "t5": "encoder.block.0.layer.0.SelfAttention.q.weight",
    "clip_text": "encoder.layers.0.self_attn.q_proj.weight",
    "clip_text_openai": "transformer.resblocks.0.attn.in_proj_weight",
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

    "t5": Hugging Face T5EncoderModel, or a whole T5 with its decoder;
    "clip_text": Hugging Face CLIPTextModel, the same with projection, or the
    text half of CLIPModel; "clip_text_openai": OpenAI's CLIP (and OpenCLIP's,
    unless its text tower is under `text.`).
    """
    for layout, embedding, prefix in (
        ("t5", "", ""),
        ("clip_text_openai", "token_embedding.weight", ""),
        ("clip_text", "embeddings.token_embedding.weight", prefix_of(state)),
    ):
        wanted = [prefix + key for key in (_MARKS[layout], embedding) if key]
        if all(key in state for key in wanted):
            return layout
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

    `shapes` are by key; `settings` is the content of config.json, empty where
    there is none; `path` is for the message; `precision` is a name of
    `models.precision.PRECISIONS`.

    `heads` and `activation` override the settings. Without either, T5's heads
    are those of its bias table and CLIP's have 64 channels; the activation is
    gelu_new in T5 v1.1, relu in the first T5, quick_gelu in CLIP. UserError
    where a key that the config needs is missing.
    """
    settings = settings.get("text_config") or settings
    read = _t5_config if layout == "t5" else _clip_config
    try:
        return read(layout, shapes, settings, heads, activation, precision)
    except KeyError as error:
        raise UserError(
            f"{path} is not the {layout} checkpoint it looks like: the key "
            f"{error.args[0]} is missing; nothing was loaded"
        ) from error


def _t5_config(layout, shapes, settings, heads, activation, precision):
    buckets, table_heads = shapes[BIAS]
    heads = heads or table_heads
    dense = _DENSE.format(i=0)
    gated = f"{dense}.wi_0.weight" in shapes
    named = settings.get("feed_forward_proj")
    if named in (None, "gated-gelu"):  # transformers means gelu_new by it
        named = "gelu_new" if gated else "relu"
    vocabulary, width = shapes[SHARED if SHARED in shapes else TIED]
    return T5Config(
        vocabulary=vocabulary,
        depth=mapping.depth(shapes, "encoder.block."),
        width=width,
        heads=heads,
        head_width=shapes[_MARKS["t5"]][0] // heads,
        hidden=shapes[f"{dense}.{'wi_0' if gated else 'wi'}.weight"][0],
        gated=gated,
        activation=activation or named.removeprefix("gated-"),
        buckets=buckets,
        max_distance=settings.get("relative_attention_max_distance", 128),
        epsilon=settings.get("layer_norm_epsilon", 1e-6),
        precision=precision,
    )


def _clip_config(layout, shapes, settings, heads, activation, precision):
    names: Any = _names(layout, prefix_of(shapes))
    layer, _, _ = names["blocks/norm1"].partition("{i}")
    matrix, rows = "text_projection", 1
    if layout == "clip_text":
        matrix, rows = "text_projection.weight", 0
    vocabulary, width = shapes[names["embedding"]]
    end = settings.get("eos_token_id")
    return ClipTextConfig(
        vocabulary=vocabulary,
        length=shapes[names["positions"]][0],
        depth=mapping.depth(shapes, layer),
        width=width,
        heads=heads or settings.get("num_attention_heads") or width // 64 or 1,
        hidden=shapes[f"{names['blocks/mlp/fc1'].format(i=0)}.weight"][0],
        projection=shapes.get(matrix, (0, 0))[rows],
        # Old configs of CLIP have 2, which is wrong; transformers then takes
        # the largest id, as is done here.
        end=end if isinstance(end, int) and end != 2 else None,
        activation=activation or settings.get("hidden_act", "quick_gelu"),
        epsilon=settings.get("layer_norm_eps", 1e-5),
        precision=precision,
    )


def rules_of(
    layout: str,
    config: TextConfig,
    arrays: Mapping[str, Any],
    *,
    embedding: str = SHARED,
    prefix: str = "text_model.",
) -> list[Rule]:
    """Returns the rules between a layout's keys and the parameters.

    `arrays` has an array or struct with a shape by each of our names.
    `embedding` is the key of T5's embedding, `prefix` that of the keys of
    "clip_text".
    """
    names = _names(layout, prefix)
    if isinstance(config, T5Config):
        names["embedding"] = embedding
        if not config.gated:
            names["blocks/mlp/fc1"] = f"{_DENSE}.wi"
    return mapping.rules_of(names, arrays, _OPS.get(layout))


def _names(layout: str, prefix: str) -> Names:
    """Returns a layout's names; the prefix is that of "clip_text"."""
    if layout != "clip_text":
        return dict(_NAMES[layout])
    return mapping.prefixed(_NAMES[layout], prefix, but=("project",))
